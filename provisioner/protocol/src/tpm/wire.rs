//! Big-endian integers and sized buffers, as TPM 2.0 Part 2 has them.

/// Takes an answer or structure apart from the front; every step fails rather than read past the end.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// The content of a `TPM2B`.
    pub fn sized(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// Fails unless everything was read.
    pub fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A `TPM2B` of `bytes`. Longer ones than a `u16` can say do not fit a command and are refused by the TPM.
pub(super) fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), bytes].concat()
}

/// `bytes` with zeros before them, `len` long; none when they are longer.
pub(super) fn padded(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    let zeros = len.checked_sub(bytes.len())?;
    Some([&vec![0; zeros], bytes].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_promises_more_than_there_is_is_refused() {
        assert_eq!(Reader(&[0, 3, 1, 2]).sized(), None);
        assert_eq!(Reader(&[0]).sized(), None);
        assert_eq!(Reader(&[0, 2, 1, 2]).sized(), Some(&[1, 2][..]));
        assert_eq!(Reader(&sized(&[7; 300])).sized(), Some(&[7; 300][..]));
    }

    #[test]
    fn padding_never_cuts() {
        assert_eq!(padded(&[1], 3), Some(vec![0, 0, 1]));
        assert_eq!(padded(&[1, 2], 1), None);
    }
}
