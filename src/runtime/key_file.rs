//! Reads keys and certificates from files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use crate::logging;
use crate::security::{Certificates, CertificatesError, ClusterKey, ClusterKeyError};

/// More than a key and the blanks around it. What is longer is no key.
const MAX_KEY_BYTES: usize = 1024;

/// More than the largest key of a certificate, with text around it.
const MAX_PRIVATE_KEY_BYTES: usize = 64 << 10;

/// More than a chain or all public roots of today, with text around them.
const MAX_CERTIFICATES_BYTES: usize = 4 << 20;

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
        let text = read(path, "cluster key", MAX_KEY_BYTES).map_err(|error| {
            ClusterKeyError::Unreadable {
                path: path.display().to_string(),
                reason: error.to_string(),
            }
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

impl Certificates {
    /// Reads what [`from_pem`](Self::from_pem) takes from three files. A warning is logged if other
    /// users of the machine can read the file of the private key, or write to it.
    ///
    /// # Errors
    ///
    /// [`CertificatesError::Unreadable`] if a file cannot be read, and the errors of
    /// [`from_pem`](Self::from_pem).
    pub fn from_files(
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
        roots: impl AsRef<Path>,
    ) -> Result<Self, CertificatesError> {
        let unreadable = |path: &Path, reason: String| CertificatesError::Unreadable {
            path: path.display().to_string(),
            reason,
        };
        let public = |path: &Path| {
            let mut text = Vec::new();
            let file = File::open(path).and_then(|file| {
                file.take(MAX_CERTIFICATES_BYTES as u64 + 1).read_to_end(&mut text)
            });
            file.map_err(|error| unreadable(path, error.to_string()))?;
            match text.len() > MAX_CERTIFICATES_BYTES {
                true => Err(unreadable(path, too_long(MAX_CERTIFICATES_BYTES))),
                false => Ok(text),
            }
        };
        let (chain, roots) = (public(chain.as_ref())?, public(roots.as_ref())?);
        let path = key.as_ref();
        let key = read(path, "private key", MAX_PRIVATE_KEY_BYTES)
            .map_err(|error| unreadable(path, error.to_string()))?;
        if key.len() == MAX_PRIVATE_KEY_BYTES {
            return Err(unreadable(path, too_long(MAX_PRIVATE_KEY_BYTES)));
        }
        Self::from_pem(&chain, &key, &roots)
    }
}

fn too_long(most: usize) -> String {
    format!("it has {most} bytes or more: it is another file")
}

/// Reads at most so much into a buffer that never moves: no copy of it is left behind.
fn read(path: &Path, what: &str, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path)?;
    warn_if_shared(&file, path, what)?;
    let mut text = Zeroizing::new(vec![0; most]);
    let mut length = 0;
    while length < most {
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
fn warn_if_shared(file: &File, path: &Path, what: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let mode = file.metadata()?.permissions().mode();
    // A group that reads is how services are given their secrets.
    if mode & 0o027 != 0 {
        logging::warn!(
            "other users can read or change the {what} in {}: its mode is {:o}, and 600 is \
             enough",
            path.display(),
            mode & 0o777
        );
    }
    Ok(())
}

#[cfg(not(unix))]
fn warn_if_shared(_: &File, _: &Path, _: &str) -> io::Result<()> {
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
    fn certificates_are_read_from_three_files() {
        use crate::security::authority::{Authority, Leaf};

        let root = Authority::new("root");
        let (chain, key) = root.issue(&Leaf::of(&["n0"]));
        let folder =
            std::env::temp_dir().join(format!("gridkv-certificates-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let [chain, roots] = [file("chain", &chain), file("roots", &root.pem())];
        let good = file("key", &key);
        let read = Certificates::from_files(&chain, &good, &roots);
        let missing = Certificates::from_files(&chain, folder.join("nowhere"), &roots);
        let long = file("long", &format!("{key}{}", "\n".repeat(MAX_PRIVATE_KEY_BYTES)));
        let long = Certificates::from_files(&chain, long, &roots);
        let bundle = file("bundle", &"\n".repeat(MAX_CERTIFICATES_BYTES + 1));
        let bundle = Certificates::from_files(&bundle, &good, &roots);
        std::fs::remove_dir_all(&folder).unwrap();
        read.unwrap();
        let text = missing.unwrap_err().to_string();
        assert!(text.contains("nowhere\": No such file"), "{text}");
        for error in [long, bundle] {
            let text = error.unwrap_err().to_string();
            assert!(text.contains("it is another file"), "{text}");
        }
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
