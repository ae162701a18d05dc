//! Messages on the wire: four bytes of length, most significant first, then so many bytes of JSON.
//!
//! *Must never* read more than [`FRAME_BYTES_MAX`] on the word of whoever is at the other end.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest message, in bytes of JSON.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the length before each message.
const LENGTH_BYTES: usize = 4;

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end is gone in the middle, or the system says no.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// Longer than any message may be.
    #[error("a message of {bytes} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong {
        /// How long it is, or says it is.
        bytes: usize,
    },
    /// Not a message that is known here.
    #[error("a message that is not understood: {0}")]
    Malformed(#[source] serde_json::Error),
}

/// A message as it goes over the wire.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Malformed)?;
    let bytes = frame.len() - LENGTH_BYTES;
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= FRAME_BYTES_MAX);
    let length = length.ok_or(FrameError::TooLong { bytes })?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// The next message; `None` when the other end closed between two of them.
///
/// Not to be dropped in the middle: what was read of a message would be lost.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>, FrameError> {
    let mut length = [0; LENGTH_BYTES];
    let begun = stream.read(&mut length).await?;
    if begun == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[begun..]).await?;
    let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { bytes });
    }
    let mut text = vec![0; bytes];
    stream.read_exact(&mut text).await?;
    serde_json::from_slice(&text).map(Some).map_err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_comes_back_as_it_went_and_an_end_between_two_is_no_error() {
        let wire = [encode(&"one").unwrap(), encode(&2).unwrap()].concat();
        let mut stream = wire.as_slice();
        assert_eq!(read::<String>(&mut stream).await.unwrap().as_deref(), Some("one"));
        assert_eq!(read::<u8>(&mut stream).await.unwrap(), Some(2));
        assert_eq!(read::<u8>(&mut stream).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_length_that_is_no_messages_is_refused_before_anything_is_read() {
        for wire in [u32::MAX.to_be_bytes(), *b"GET ", 65_537_u32.to_be_bytes()] {
            assert!(matches!(read::<String>(&mut &wire[..]).await, Err(FrameError::TooLong { .. })));
        }
        assert!(matches!(encode(&"x".repeat(FRAME_BYTES_MAX)), Err(FrameError::TooLong { bytes: 65_538 })));
        assert!(encode(&"x".repeat(FRAME_BYTES_MAX - 2)).is_ok());
    }

    #[tokio::test]
    async fn half_a_message_and_nonsense_are_errors() {
        let whole = encode(&"one").unwrap();
        assert!(matches!(read::<String>(&mut &whole[..6]).await, Err(FrameError::Io(_))));
        assert!(matches!(read::<String>(&mut &whole[..2]).await, Err(FrameError::Io(_))));
        assert!(matches!(read::<u8>(&mut &whole[..]).await, Err(FrameError::Malformed(_))));
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let wire = [&20_000_u32.to_be_bytes()[..], deep.as_bytes()].concat();
        assert!(matches!(read::<serde_json::Value>(&mut &wire[..]).await, Err(FrameError::Malformed(_))));
    }
}
