//! Sizes of messages, as they are written on the command line.

use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

/// A number of bytes: `64`, `64K` or `64KiB`, `1M`, `1G`; all powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

/// Sizes from one to another, as NetPIPE takes them: powers of two and what is halfway between, and
/// each of them a little smaller and a little larger, where a transport that likes round numbers shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    from: usize,
    to: usize,
}

/// How far off the round sizes a sweep looks.
const OFF: usize = 3;
/// The largest message that a port takes.
const BYTES_MAX: usize = 1 << 30;

impl Sweep {
    pub fn sizes(self) -> Vec<usize> {
        let powers = (0..usize::BITS - 1).map(|bit| 1usize << bit);
        let round = powers.flat_map(|power| [power, power + power / 2]);
        let around =
            round.flat_map(|size| [size.saturating_sub(OFF), size, size.saturating_add(OFF)]);
        let ends = [self.from, self.to];
        let mut sizes: Vec<usize> = around
            .chain(ends)
            .filter(|size| (self.from..=self.to).contains(size))
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

impl FromStr for Sweep {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Sweep> {
        let (from, to) = text
            .split_once("..")
            .context("a sweep is FROM..TO, such as 1..4M")?;
        let (Bytes(from), Bytes(to)) = (from.parse()?, to.parse()?);
        ensure!(
            from <= to,
            "a sweep goes from the smaller size to the larger"
        );
        Ok(Sweep { from, to })
    }
}

impl FromStr for Bytes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Bytes> {
        let text = text.trim();
        let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            unit => bail!("{unit:?} is no unit of bytes; there are K, M and G"),
        };
        let number: usize = digits
            .parse()
            .with_context(|| format!("{text:?} is no number of bytes"))?;
        let bytes = number
            .checked_mul(1 << shift)
            .filter(|&bytes| bytes <= BYTES_MAX);
        let bytes =
            bytes.with_context(|| format!("{text} is more than a message may have (1G)"))?;
        ensure!(bytes > 0, "a message has a byte at least");
        Ok(Bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, bytes) in [
            ("8", 8),
            ("64K", 65_536),
            ("1MiB", 1 << 20),
            ("1g", 1 << 30),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
        for text in ["", "0", "K", "8x", "-1", "2G", "99999999999999999999"] {
            assert!(text.parse::<Bytes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_sweep_looks_beside_powers_of_two() {
        let sizes = "60..200".parse::<Sweep>().unwrap().sizes();
        assert_eq!(
            sizes,
            [
                60, 61, 64, 67, 93, 96, 99, 125, 128, 131, 189, 192, 195, 200
            ]
        );
        assert_eq!("1..4".parse::<Sweep>().unwrap().sizes(), [1, 2, 3, 4]);
        assert_eq!("7..7".parse::<Sweep>().unwrap().sizes(), [7]);
    }

    #[test]
    fn a_sweep_has_two_ends() {
        for text in ["8", "8..", "..8", "64..8", "0..8"] {
            assert!(text.parse::<Sweep>().is_err(), "{text:?}");
        }
    }
}
