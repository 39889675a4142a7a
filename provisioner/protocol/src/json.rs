//! JSON without duplicate members: two readers of one document must never see two values.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};

/// Why a document was not read.
#[derive(Debug, thiserror::Error)]
#[error("JSON cannot be read: {0}")]
pub struct JsonError(#[from] serde_json::Error);

impl JsonError {
    /// Whether the document names one member twice.
    pub(crate) fn is_duplicate(&self) -> bool {
        self.0.to_string().starts_with(DUPLICATE)
    }
}

const DUPLICATE: &str = "duplicate member";

/// Reads `bytes` as a `T`; a duplicate member at any depth is an error, an unknown one is ignored.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    NoDuplicates.deserialize(&mut reader)?;
    reader.end()?;
    Ok(serde_json::from_slice(bytes)?)
}

/// The compact JSON form of `value`. Our wire types always have one.
pub fn to_vec<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

struct NoDuplicates;

impl<'de> DeserializeSeed<'de> for NoDuplicates {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NoDuplicates {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(NoDuplicates)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value_seed(NoDuplicates)?;
            if seen.contains(&name) {
                return Err(de::Error::custom(format!("{DUPLICATE} {name:?}")));
            }
            seen.insert(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_duplicate_member_is_refused_at_any_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"[{"b":{"c":1,"c":2}}]"#, r#"{"a":1,"\u0061":2}"#] {
            assert!(parse::<Value>(text.as_bytes()).unwrap_err().is_duplicate(), "{text}");
        }
    }

    #[test]
    fn trailing_bytes_and_bottomless_nesting_are_refused() {
        assert!(parse::<Value>(b"{} {}").is_err());
        assert!(parse::<Value>("[".repeat(100_000).as_bytes()).is_err());
    }
}
