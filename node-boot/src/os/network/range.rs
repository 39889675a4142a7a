//! An address with the length of its prefix.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// `10.7.0.13/24`: an address and where its neighbours are, or a range of addresses (RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    /// The address.
    pub ip: IpAddr,
    /// How many of its bits are those of all its neighbours.
    pub prefix: u8,
}

impl Range {
    /// Whether `other` is a neighbour.
    pub fn contains(&self, other: IpAddr) -> bool {
        let number = |ip: IpAddr| match ip {
            IpAddr::V4(four) => (u128::from(u32::from(four)), 32),
            IpAddr::V6(six) => (u128::from(six), 128),
        };
        let ((own, size), (theirs, others)) = (number(self.ip), number(other));
        let shift = size - u32::from(self.prefix);
        size == others && own.checked_shr(shift) == theirs.checked_shr(shift)
    }
}

impl FromStr for Range {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || format!("{text:?} is no address with the length of its prefix, as in 10.7.0.13/24");
        let (ip, prefix) = text.split_once('/').with_context(wrong)?;
        let range = Self { ip: ip.parse().with_context(wrong)?, prefix: prefix.parse().with_context(wrong)? };
        ensure!(range.prefix <= if range.ip.is_ipv4() { 32 } else { 128 }, wrong());
        Ok(range)
    }
}

impl TryFrom<String> for Range {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.to_string()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_of_the_same_prefix_and_kind() {
        let range: Range = "10.7.0.13/24".parse().unwrap();
        for (other, is) in [("10.7.0.1", true), ("10.7.1.1", false), ("::a07:1", false)] {
            assert_eq!(range.contains(other.parse().unwrap()), is, "{other}");
        }
        assert!("0.0.0.0/0".parse::<Range>().unwrap().contains("9.9.9.9".parse().unwrap()));
        assert!("fd00::1/64".parse::<Range>().unwrap().contains("fd00::2".parse().unwrap()));
        for wrong in ["10.7.0.13", "10.7.0.13/33", "fd00::/129", "x/8", "10.7.0.13/-1", ""] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }
}
