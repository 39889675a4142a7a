//! Which kubelet may join which API server.

use std::cmp::Ordering;

/// A kubelet may be this many minors older than the API server (Kubernetes' version skew policy, since 1.28).
const OLDEST: u32 = 3;

/// Major and minor of a Kubernetes version; the patch never matters for skew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 1 since 2015.
    pub major: u32,
    /// 36 in `v1.36.3`.
    pub minor: u32,
}

/// Whether a kubelet fits an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// It does.
    Fits,
    /// It is newer.
    TooNew,
    /// It is more than three minors older.
    TooOld,
}

impl Version {
    /// Reads `v1.36.3`, `1.36`, `v1.36.3+k3s1`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix('v').unwrap_or(text).splitn(3, '.');
        let mut number = || {
            let digits = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?;
            digits.parse().ok()
        };
        Some(Self { major: number()?, minor: number()? })
    }

    /// Whether a kubelet of this version may join an API server of version `api`.
    pub fn fits(self, api: Self) -> Skew {
        match self.cmp(&api) {
            Ordering::Greater => Skew::TooNew,
            _ if self.major == api.major && api.minor - self.minor <= OLDEST => Skew::Fits,
            _ => Skew::TooOld,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skew(kubelet: &str, api: &str) -> Skew {
        Version::parse(kubelet).unwrap().fits(Version::parse(api).unwrap())
    }

    #[test]
    fn a_kubelet_is_never_newer_and_at_most_three_minors_older() {
        assert_eq!(skew("v1.36.3", "v1.36.0"), Skew::Fits);
        assert_eq!(skew("v1.33.9", "v1.36.0"), Skew::Fits);
        assert_eq!(skew("v1.32.9", "v1.36.0"), Skew::TooOld);
        assert_eq!(skew("v1.37.0", "v1.36.9"), Skew::TooNew);
        assert_eq!(skew("v2.0.0", "v1.36.9"), Skew::TooNew);
        assert_eq!(skew("v1.36.0", "v2.36.0"), Skew::TooOld);
    }

    #[test]
    fn versions_are_read_as_distributions_write_them_and_nothing_else_is() {
        assert_eq!(Version::parse("v1.36.3+k3s1"), Some(Version { major: 1, minor: 36 }));
        assert_eq!(Version::parse("1.36"), Some(Version { major: 1, minor: 36 }));
        for junk in ["", "v", "v1", "1.x", "v1.+6", "v-1.3", "vv1.36", "1..36", "99999999999.1"] {
            assert_eq!(Version::parse(junk), None, "{junk:?}");
        }
    }
}
