// SPDX-License-Identifier: LGPL-2.1-or-later
//! XDR (RFC 4506), the subset that libvirt's protocol uses.
//!
//! Everything is a multiple of four bytes, big-endian. The decoder accepts what libvirt's accepts,
//! and reads the same in it, because clients are tested against libvirt alone: any word but zero is
//! true, a string ends at its first NUL byte, and what stands in the padding or behind the value is
//! not looked at. One thing is stricter: a string must be UTF-8 ([`XdrError::NotUtf8`]).

use std::ops::{Deref, DerefMut};

/// The longest string that libvirt sends or accepts, in bytes.
pub const STRING_MAX: usize = 4_194_304;

/// Why bytes are not the value they should be, or a value has no encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XdrError {
    /// The value needs more bytes than there are.
    #[error("the data ends {missing} bytes early")]
    Truncated {
        /// How many bytes were missing.
        missing: usize,
    },
    /// A count or a length is above what the protocol allows.
    #[error("a length of {len} is above the limit of {max}")]
    TooLong {
        /// The length asked for.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A string to be sent holds a NUL byte, which its reader would take for its end.
    #[error("a string holds a NUL byte")]
    NulInString,
    /// A string is not UTF-8. libvirt accepts such strings; nothing of ours is named so.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A number does not fit the type it stands for.
    #[error("{value} is not a {what}")]
    OutOfRange {
        /// What was expected.
        what: &'static str,
        /// What was there.
        value: i64,
    },
}

/// A value with an XDR encoding.
pub trait Xdr: Sized {
    /// Appends the encoding of this value.
    ///
    /// # Errors
    /// When a string or list is longer than the protocol allows.
    fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError>;

    /// Reads one value.
    ///
    /// # Errors
    /// When the bytes are not such a value.
    fn get(input: &mut Reader<'_>) -> Result<Self, XdrError>;
}

/// Encodes a whole payload.
///
/// # Errors
/// When a string or list is longer than the protocol allows.
pub fn encode<T: Xdr>(value: &T) -> Result<Vec<u8>, XdrError> {
    let mut out = Vec::new();
    value.put(&mut out)?;
    Ok(out)
}

/// Decodes the value that a payload begins with.
///
/// # Errors
/// When the bytes begin with no such value.
pub fn decode<T: Xdr>(bytes: &[u8]) -> Result<T, XdrError> {
    T::get(&mut Reader::new(bytes))
}

/// A cursor over bytes that are being decoded.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Takes the next `len` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], XdrError> {
        let Some((head, tail)) = self.rest.split_at_checked(len) else {
            return Err(XdrError::Truncated { missing: len - self.rest.len() });
        };
        self.rest = tail;
        Ok(head)
    }

    fn word(&mut self) -> Result<[u8; 4], XdrError> {
        let mut word = [0; 4];
        word.copy_from_slice(self.take(4)?);
        Ok(word)
    }

    fn double_word(&mut self) -> Result<[u8; 8], XdrError> {
        let mut words = [0; 8];
        words.copy_from_slice(self.take(8)?);
        Ok(words)
    }

    /// Reads a count and checks it against its limit and against the bytes left,
    /// given that each element takes at least `min_size` of them.
    fn count(&mut self, max: usize, min_size: usize) -> Result<usize, XdrError> {
        let len = usize::try_from(u32::get(self)?).unwrap_or(usize::MAX);
        if len > max {
            return Err(XdrError::TooLong { len, max });
        }
        let least = len.saturating_mul(min_size);
        if least > self.rest.len() {
            return Err(XdrError::Truncated { missing: least - self.rest.len() });
        }
        Ok(len)
    }

    /// Reads variable-length opaque data of at most `max` bytes, padding included.
    ///
    /// # Errors
    /// When the length is above `max`, or the data or its padding is not there.
    pub fn opaque(&mut self, max: usize) -> Result<&'a [u8], XdrError> {
        let len = self.count(max, 1)?;
        let data = self.take(len)?;
        self.take(padding(len))?;
        Ok(data)
    }
}

/// How many bytes follow `len` bytes of opaque data.
fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

fn put_count(len: usize, max: usize, out: &mut Vec<u8>) -> Result<(), XdrError> {
    match u32::try_from(len) {
        Ok(word) if len <= max => word.put(out),
        _ => Err(XdrError::TooLong { len, max }),
    }
}

/// Appends variable-length opaque data with its padding.
///
/// # Errors
/// When there is more than `max` of it.
pub fn put_opaque(data: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), XdrError> {
    put_count(data.len(), max, out)?;
    out.extend_from_slice(data);
    out.resize(out.len() + padding(data.len()), 0);
    Ok(())
}

macro_rules! number {
    ($($type:ty, $take:ident;)*) => {$(
        impl Xdr for $type {
            fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
                out.extend_from_slice(&self.to_be_bytes());
                Ok(())
            }
            fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
                Ok(<$type>::from_be_bytes(input.$take()?))
            }
        }
    )*};
}

number! {
    u32, word;
    i32, word;
    u64, double_word;
    i64, double_word;
    f64, double_word;
}

/// Types of a byte that are a word on the wire. Of the word only its last byte is looked at.
macro_rules! byte {
    ($($(#[$doc:meta])* $type:ty, $word:ty;)*) => {$(
        $(#[$doc])*
        impl Xdr for $type {
            fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
                <$word>::from(*self).put(out)
            }
            fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
                let [.., last] = input.word()?;
                Ok(<$type>::from_be_bytes([last]))
            }
        }
    )*};
}

byte! {
    /// `char`.
    i8, i32;
    /// `unsigned char`.
    u8, u32;
}

impl Xdr for bool {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        u32::from(*self).put(out)
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        Ok(u32::get(input)? != 0)
    }
}

/// No arguments, or no result.
impl Xdr for () {
    fn put(&self, _: &mut Vec<u8>) -> Result<(), XdrError> {
        Ok(())
    }
    fn get(_: &mut Reader<'_>) -> Result<Self, XdrError> {
        Ok(())
    }
}

impl Xdr for String {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        if self.as_bytes().contains(&0) {
            return Err(XdrError::NulInString);
        }
        put_opaque(self.as_bytes(), STRING_MAX, out)
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        let bytes = input.opaque(STRING_MAX)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        match std::str::from_utf8(&bytes[..end]) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(XdrError::NotUtf8),
        }
    }
}

/// A value that may be absent (`remote_string` and its like).
impl<T: Xdr> Xdr for Option<T> {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        self.is_some().put(out)?;
        self.as_ref().map_or(Ok(()), |value| value.put(out))
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        if bool::get(input)? { T::get(input).map(Some) } else { Ok(None) }
    }
}

/// A list of at most `MAX` elements, the limit that the protocol gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct List<T, const MAX: usize>(pub Vec<T>);

impl<T: Xdr, const MAX: usize> Xdr for List<T, MAX> {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), XdrError> {
        put_count(self.0.len(), MAX, out)?;
        self.0.iter().try_for_each(|element| element.put(out))
    }
    fn get(input: &mut Reader<'_>) -> Result<Self, XdrError> {
        // No element of this protocol is shorter than a word.
        let len = input.count(MAX, 4)?;
        (0..len).map(|_| T::get(input)).collect::<Result<_, _>>().map(List)
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<T, const MAX: usize> From<Vec<T>> for List<T, MAX> {
    fn from(elements: Vec<T>) -> Self {
        List(elements)
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T, const MAX: usize> DerefMut for List<T, MAX> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

/// Declares structs whose encoding is that of their fields in order.
macro_rules! xdr_structs {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs, reason = "the fields are the protocol's own, under its names")]
        pub struct $name { $(pub $field: $type),* }

        impl $crate::xdr::Xdr for $name {
            fn put(&self, out: &mut Vec<u8>) -> Result<(), $crate::xdr::XdrError> {
                $($crate::xdr::Xdr::put(&self.$field, out)?;)*
                Ok(())
            }
            fn get(input: &mut $crate::xdr::Reader<'_>) -> Result<Self, $crate::xdr::XdrError> {
                Ok($name { $($field: $crate::xdr::Xdr::get(input)?),* })
            }
        }
    )*};
}
pub(crate) use xdr_structs;

#[cfg(test)]
#[path = "xdr_tests.rs"]
mod tests;
