//! Our objects as the program sees them: opaque pointer values that point at nothing.
//!
//! A handle is the key of a slot map, so that a stale or invented one is noticed and never
//! followed. Four bits of it say which kind of object it is. Predefined handles are addresses
//! inside the native library; a key's number lies between 4 GiB and those.

use slotmap::{Key, KeyData, new_key_type};

new_key_type! {
    /// A communicator that the program made.
    pub struct CommKey;
    /// A group that the program made.
    pub struct GroupKey;
    /// A request.
    pub struct RequestKey;
    /// An error handler that the program made.
    pub struct ErrhandlerKey;
}

/// A kind of object.
pub trait Object: Key + From<KeyData> {
    /// Tells it from other kinds; below 16.
    const KIND: u64;

    /// The value that the program holds.
    fn to_value(self) -> usize {
        (self.data().as_ffi() | (Self::KIND << KIND_SHIFT)) as usize
    }

    /// The key in a value that the program passed, if it can be one.
    fn from_value(value: usize) -> Option<Self> {
        let value = value as u64;
        let kind = (value >> KIND_SHIFT) & KIND_MASK;
        let number = value & !(KIND_MASK << KIND_SHIFT);
        (kind == Self::KIND && number >> 32 != 0).then(|| KeyData::from_ffi(number).into())
    }
}

impl Object for CommKey {
    const KIND: u64 = 1;
}
impl Object for GroupKey {
    const KIND: u64 = 2;
}
impl Object for RequestKey {
    const KIND: u64 = 3;
}
impl Object for ErrhandlerKey {
    const KIND: u64 = 4;
}

/// The top bits of a key's 32-bit index, which no slot map ever reaches.
const KIND_SHIFT: u32 = 28;
const KIND_MASK: u64 = 0xf;

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn a_value_leads_back_to_its_object_and_to_no_other_kind() {
        let mut comms = SlotMap::<CommKey, ()>::with_key();
        for _ in 0..1000 {
            let key = comms.insert(());
            let value = key.to_value();
            assert_eq!(CommKey::from_value(value), Some(key));
            assert_eq!(GroupKey::from_value(value), None);
            assert!(value > 1 << 32);
            if value.is_multiple_of(3) {
                comms.remove(key);
                assert!(!comms.contains_key(CommKey::from_value(value).unwrap()));
            }
        }
    }

    #[test]
    fn small_numbers_are_no_handles() {
        for value in 0..100_000 {
            assert_eq!(RequestKey::from_value(value), None);
        }
        assert_eq!(RequestKey::from_value(3 << KIND_SHIFT), None);
    }
}
