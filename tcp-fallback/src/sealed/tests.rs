use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use proptest::prelude::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::limits::{FIRST_RECORD_BYTES, RECORD_BYTES, STRAIGHT_BYTES};

const PSK: Psk = Psk([7; 32]);

fn sockets() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
}

/// Reads what there is, and expects nothing in it.
fn read_nothing(end: &mut Sealed, socket: &OwnedFd) -> Result<Read, LinkError> {
    end.read(socket.as_fd(), &mut [IoSliceMut::new(&mut [0; 64])])
}

/// Two ends of an encrypted link that is set up.
fn pair() -> (Sealed, Sealed) {
    let (left, right) = sockets();
    let (mut dialler, mut acceptor) = (Sealed::dialler(&PSK), Sealed::acceptor(&PSK));
    assert!(dialler.flush(left.as_fd()).unwrap());
    assert_eq!(read_nothing(&mut acceptor, &right).unwrap().bytes(), 0);
    assert_eq!(read_nothing(&mut dialler, &left).unwrap().bytes(), 0);
    assert!(dialler.has_opened() && acceptor.has_opened());
    (dialler, acceptor)
}

/// These bytes as they go over the wire.
fn seal(end: &mut Sealed, mut bytes: &[u8]) -> Vec<u8> {
    let State::Open(noise) = &mut end.state else {
        panic!("it is not open")
    };
    while !bytes.is_empty() {
        let count = end.sealer.seal(noise, &[IoSlice::new(bytes)]);
        bytes = &bytes[count..];
    }
    let sealed = end.sealer.waiting().to_vec();
    end.sealer.advance(sealed.len());
    sealed
}

/// Everything that opens of what comes over the wire; into places of so many bytes.
fn open(end: &mut Sealed, mut bytes: &[u8], place: usize) -> Result<Vec<u8>, Violation> {
    let State::Open(noise) = &mut end.state else {
        panic!("it is not open")
    };
    let mut opened = Vec::new();
    loop {
        while end.opener.has_more()? {
            let mut into = vec![0; place];
            let count = end.opener.open(noise, &mut [IoSliceMut::new(&mut into)])?;
            opened.extend_from_slice(&into[..count]);
        }
        if bytes.is_empty() {
            return Ok(opened);
        }
        let room = end.opener.room();
        let count = room.len().min(bytes.len());
        assert!(count > 0, "no room, and nothing to take out");
        room[..count].copy_from_slice(&bytes[..count]);
        end.opener.arrived(count);
        bytes = &bytes[count..];
    }
}

fn some_bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However what is sealed is cut into pieces, and what is sealed of it into others. `[R55]`
    #[test]
    fn what_was_sealed_is_opened(
        pieces in prop::collection::vec(1..3 * RECORD_BYTES, 1..4),
        small in prop::collection::vec(1..300_usize, 0..20),
        cuts in prop::collection::vec(1..5000_usize, 1..20),
        place in prop_oneof![1..200_usize, 1000..2 * RECORD_BYTES],
    ) {
        let (mut left, mut right) = pair();
        let all: Vec<Vec<u8>> = pieces.iter().chain(&small).map(|&len| some_bytes(len)).collect();
        let State::Open(noise) = &mut left.state else { panic!() };
        let slices: Vec<IoSlice<'_>> = all.iter().map(|piece| IoSlice::new(piece)).collect();
        let whole = all.concat();
        let done = left.sealer.seal(noise, &slices);
        let mut sealed = left.sealer.waiting().to_vec();
        left.sealer.advance(sealed.len());
        sealed.extend(seal(&mut left, &whole[done..]));
        let mut opened = Vec::new();
        let mut cuts = cuts.iter().cycle();
        let mut rest = &sealed[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            opened.extend(open(&mut right, piece, place).unwrap());
            rest = after;
        }
        prop_assert!(opened == whole);
    }
}

/// Large pieces lie in records of their own, small ones together, the first of all in a short one. `[R55]`
#[test]
fn records_are_bounded_and_few() {
    let (mut left, _) = pair();
    let lengths = |mut sealed: &[u8]| {
        let mut lengths = Vec::new();
        while let Some((length, rest)) = sealed.split_first_chunk() {
            let length = usize::from(u16::from_le_bytes(*length));
            lengths.push(length - SEAL_BYTES);
            sealed = &rest[length..];
        }
        lengths
    };
    let first = seal(&mut left, &some_bytes(2 * RECORD_BYTES + 100));
    let rest = RECORD_BYTES - FIRST_RECORD_BYTES + 100;
    let wanted = [FIRST_RECORD_BYTES, RECORD_BYTES, rest];
    assert_eq!(lengths(&first), wanted);
    let State::Open(noise) = &mut left.state else {
        panic!()
    };
    let (small, large) = (some_bytes(100), some_bytes(STRAIGHT_BYTES));
    let parts = [&small, &small, &large, &small, &small].map(|it| IoSlice::new(it));
    left.sealer.seal(noise, &parts);
    assert_eq!(lengths(left.sealer.waiting()), [200, STRAIGHT_BYTES, 200]);
}

/// Whichever bit of whichever record is another: nothing of it is handed over, nor of what follows. `[R55]`
#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let first = some_bytes(40);
    let (mut left, _) = pair();
    let bits = 8 * (seal(&mut left, &first).len());
    for bit in 0..bits {
        for earlier in [0, 1] {
            let (mut left, mut right) = pair();
            for _ in 0..earlier {
                let sealed = seal(&mut left, &first);
                assert_eq!(open(&mut right, &sealed, 1000).unwrap(), first);
            }
            let mut sealed = seal(&mut left, &some_bytes(40));
            sealed[bit / 8] ^= 1 << (bit % 8);
            if bit < 8 * LENGTH_BYTES {
                // A length that is too long waits for what comes next.
                sealed.extend(seal(&mut left, &some_bytes(2 * RECORD_BYTES)));
            }
            let opened = open(&mut right, &sealed, 1000);
            assert!(
                matches!(opened, Err(Violation::Seal | Violation::Length(_))),
                "bit {bit} after {earlier}: {opened:?}"
            );
        }
    }
}

/// What is cut off is not there. `[R55]`
#[test]
fn a_record_cut_short_gives_nothing() {
    let (mut left, _) = pair();
    let whole = seal(&mut left, &some_bytes(40)).len();
    for cut in 0..whole {
        let (mut left, mut right) = pair();
        let sealed = seal(&mut left, &some_bytes(40));
        assert_eq!(open(&mut right, &sealed[..cut], 1000).unwrap(), []);
        assert_eq!(
            open(&mut right, &sealed[cut..], 1000).unwrap(),
            some_bytes(40)
        );
        // Cut out of the middle, the next one is no end to it.
        let (mut left, mut right) = pair();
        let mut sealed = seal(&mut left, &some_bytes(40));
        sealed.truncate(cut.max(1));
        sealed.extend(seal(&mut left, &some_bytes(70_000)));
        let opened = open(&mut right, &sealed, 1000);
        assert!(
            matches!(opened, Err(Violation::Seal | Violation::Length(_))),
            "{cut}: {opened:?}"
        );
    }
}

/// Again, in another order, one left out, back to its sender, or of another link. `[R55]`
#[test]
fn a_record_out_of_its_place_does_not_open() {
    type Order = fn([Vec<u8>; 3]) -> Vec<Vec<u8>>;
    let orders: [(Order, usize); 4] = [
        (|[a, b, c]| vec![a.clone(), a, b, c], 1),
        (|[a, b, c]| vec![b, a, c], 0),
        (|[a, _, c]| vec![a, c], 1),
        (|[a, b, _]| vec![a, b.clone(), b], 2),
    ];
    for (order, good) in orders {
        let (mut left, mut right) = pair();
        let sealed = [1, 2, 3].map(|number| seal(&mut left, &[number; 50]));
        for (place, record) in order(sealed).iter().enumerate() {
            let opened = open(&mut right, record, 1000);
            match place < good {
                true => assert_eq!(opened.unwrap(), [place as u8 + 1; 50]),
                false => {
                    assert_eq!(opened, Err(Violation::Seal));
                    break;
                }
            }
        }
    }
    let (mut left, mut right) = pair();
    let sealed = seal(&mut left, &[1; 50]);
    assert_eq!(open(&mut left, &sealed, 1000), Err(Violation::Seal));
    let (mut elsewhere, _) = pair();
    let foreign = seal(&mut elsewhere, &[1; 50]);
    assert_eq!(open(&mut right, &foreign, 1000), Err(Violation::Seal));
}

/// Nothing is sealed twice alike, nor on two links. `[R55]`
#[test]
fn links_have_keys_of_their_own() {
    let sealed = [pair().0, pair().0].map(|mut left| [(); 2].map(|()| seal(&mut left, &[0; 64])));
    let all = sealed.concat();
    for (place, one) in all.iter().enumerate() {
        assert!(all[..place].iter().all(|other| other[2..] != one[2..]));
    }
}

/// Who has another key gets no link, and is told so; neither does who flips a bit of the set-up. `[R54]`
#[test]
fn another_key_is_no_key() {
    let (left, right) = sockets();
    let (mut dialler, mut acceptor) = (
        Sealed::dialler(&Psk([1; 32])),
        Sealed::acceptor(&Psk([2; 32])),
    );
    dialler.flush(left.as_fd()).unwrap();
    for (end, socket) in [(&mut acceptor, &right), (&mut dialler, &left)] {
        let read = read_nothing(end, socket);
        assert!(
            matches!(read, Err(LinkError::Protocol(Violation::Proof))),
            "{read:?}"
        );
        assert!(!end.has_opened());
    }
    for bit in 0..8 * (LENGTH_BYTES + HANDSHAKE_BYTES) {
        for second in [false, true] {
            let (left, right) = sockets();
            let (mut dialler, mut acceptor) = (Sealed::dialler(&PSK), Sealed::acceptor(&PSK));
            let flipped = |from: &OwnedFd, to: &OwnedFd, flip: bool| {
                let mut message = [0; LENGTH_BYTES + HANDSHAKE_BYTES];
                let (count, _) = recv(from, &mut message, RecvFlags::DONTWAIT).unwrap();
                message[bit / 8] ^= u8::from(flip) << (bit % 8);
                send(to, &message[..count], WRITE_FLAGS).unwrap();
            };
            let (mine, yours) = (sockets(), (left, right));
            dialler.flush(yours.0.as_fd()).unwrap();
            flipped(&yours.1, &mine.0, !second);
            let mut read = read_nothing(&mut acceptor, &mine.1);
            if second {
                assert!(read.is_ok());
                flipped(&mine.0, &yours.1, true);
                read = read_nothing(&mut dialler, &yours.0);
            }
            let hears = matches!(read, Err(LinkError::Protocol(_) | LinkError::Differs(_)));
            // A curve's point has a bit that means nothing.
            let meaningless = bit == 8 * (LENGTH_BYTES + 31) + 7;
            assert!(
                hears || meaningless,
                "bit {bit} of the second {second}: {read:?}"
            );
        }
    }
}

/// Who does not encrypt is told apart from who lies. `[R54]`
#[test]
fn a_plain_dialler_is_known_by_his_first_bytes() {
    let (left, right) = sockets();
    let mut acceptor = Sealed::acceptor(&PSK);
    for byte in [VERSION, FrameKind::Hello as u8] {
        assert!(acceptor.is_empty() && !acceptor.has_opened());
        send(&left, &[byte], WRITE_FLAGS).unwrap();
        let read = read_nothing(&mut acceptor, &right);
        if byte == VERSION && matches!(read, Ok(Read::Last(0))) {
            continue;
        }
        assert!(matches!(read, Err(LinkError::Differs(UNLIKE_THEIRS))));
    }
}

/// What a stranger costs; also one who says again what he has recorded. `[R54]`
#[test]
fn strangers_cost_little() {
    let (left, right) = sockets();
    let mut acceptor = Sealed::acceptor(&PSK);
    assert!(acceptor.opener.room().len() < 64);
    Sealed::dialler(&PSK).flush(left.as_fd()).unwrap();
    read_nothing(&mut acceptor, &right).unwrap();
    let longest = (FIRST_RECORD_BYTES + SEAL_BYTES) as u16;
    for (length, fits) in [
        (longest, true),
        (longest + 1, false),
        (SEAL_BYTES as u16, false),
    ] {
        let mut claim = length.to_le_bytes().to_vec();
        claim.resize(10_000, 1);
        let (left, right) = sockets();
        let mut acceptor = Sealed::acceptor(&PSK);
        Sealed::dialler(&PSK).flush(left.as_fd()).unwrap();
        read_nothing(&mut acceptor, &right).unwrap();
        send(&left, &claim, WRITE_FLAGS).unwrap();
        let read = read_nothing(&mut acceptor, &right);
        assert_eq!(read.is_ok(), fits, "{length}: {read:?}");
        assert!(acceptor.opener.room().len() < FIRST_RECORD_BYTES + 64);
        if fits {
            claim.truncate(0);
            claim.resize(usize::from(longest), 1);
            send(&left, &claim, WRITE_FLAGS).unwrap();
            let mut read = Ok(Read::None);
            for _ in 0..4 {
                read = read_nothing(&mut acceptor, &right);
            }
            assert!(matches!(read, Err(LinkError::Protocol(Violation::Seal))));
        }
    }
}
