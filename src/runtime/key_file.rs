//! Reads a cluster key from a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::logging;
use crate::security::{ClusterKey, ClusterKeyError};

/// More than a key and the blanks around it. What is longer is no key.
const MAX_FILE_BYTES: usize = 1024;

impl ClusterKey {
    /// Reads a key from a file with 64 hexadecimal digits, as `openssl rand -hex 32` prints them.
    ///
    /// Blanks and ends of lines before and after the digits are ignored. A warning is logged if
    /// other users of the machine can read the file, or write to it.
    ///
    /// # Errors
    ///
    /// [`ClusterKeyError::Unreadable`] if the file cannot be read, and the errors of
    /// [`from_hex`](Self::from_hex) if it has anything but a key. None of them quotes the file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ClusterKeyError> {
        let path = path.as_ref();
        let text = read(path).map_err(|error| ClusterKeyError::Unreadable {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        of_content(&text)
    }
}

/// Makes a key of what is in a file.
pub(crate) fn of_content(content: &[u8]) -> Result<ClusterKey, ClusterKeyError> {
    let bytes = content.trim_ascii();
    match std::str::from_utf8(bytes) {
        Ok(text) => ClusterKey::from_hex(text),
        Err(error) => Err(not_text(bytes, error.valid_up_to())),
    }
}

/// Reads at most [`MAX_FILE_BYTES`] into a buffer that never moves: no copy of it is left behind.
fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path)?;
    warn_if_shared(&file, path)?;
    let mut text = Zeroizing::new(vec![0; MAX_FILE_BYTES]);
    let mut length = 0;
    while length < MAX_FILE_BYTES {
        match file.read(&mut text[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(length);
    Ok(text)
}

/// Returns the error of bytes that are text up to one of them.
fn not_text(bytes: &[u8], valid: usize) -> ClusterKeyError {
    let text = std::str::from_utf8(&bytes[..valid]).unwrap_or_default();
    match ClusterKey::from_hex(text) {
        Err(error @ ClusterKeyError::NotHex { .. }) => error,
        // All before are digits, a byte each.
        _ => ClusterKeyError::NotHex { position: valid + 1 },
    }
}

#[cfg(unix)]
fn warn_if_shared(file: &File, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let mode = file.metadata()?.permissions().mode();
    // A group that reads is how services are given their secrets.
    if mode & 0o027 != 0 {
        logging::warn!(
            "other users can read or change the cluster key in {}: its mode is {:o}, and 600 is \
             enough",
            path.display(),
            mode & 0o777
        );
    }
    Ok(())
}

#[cfg(not(unix))]
fn warn_if_shared(_: &File, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_key(content: &[u8]) -> Result<ClusterKey, ClusterKeyError> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gridkv-key-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        let key = ClusterKey::from_file(&path);
        std::fs::remove_file(&path).unwrap();
        key
    }

    const DIGITS: &str = "8f0c6be1a2d94735bb90e1f64a5c2d7e03fd1b6a9c48e5720d3fa16b7c92e854";

    #[test]
    fn blanks_around_the_digits_are_ignored() {
        for content in [DIGITS.to_owned(), format!("{DIGITS}\n"), format!("\r\n {DIGITS} \r\n")] {
            assert!(read_key(content.as_bytes()).is_ok());
        }
        let long = format!("{DIGITS}{}", " ".repeat(5000));
        assert!(read_key(long.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_no_key_says_where() {
        let error = |content: &[u8]| read_key(content).unwrap_err();
        assert_eq!(error(b""), ClusterKeyError::WrongLength { length: 0 });
        assert_eq!(error(&[b'a'; 5000]), ClusterKeyError::WrongLength { length: 1024 });
        let two = format!("{DIGITS}\n{DIGITS}\n");
        assert_eq!(error(two.as_bytes()), ClusterKeyError::NotHex { position: 65 });
        assert_eq!(error(b"12\xff34"), ClusterKeyError::NotHex { position: 3 });
        assert_eq!(error(b"1x2\xff34"), ClusterKeyError::NotHex { position: 2 });
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = ClusterKey::from_file("/nowhere/gridkv.key").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("\"/nowhere/gridkv.key\": No such file"), "{text}");
        let folder = ClusterKey::from_file(std::env::temp_dir()).unwrap_err();
        assert!(matches!(folder, ClusterKeyError::Unreadable { .. }));
    }
}
