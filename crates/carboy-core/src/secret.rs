//! A value that cannot be shown by accident.
//!
//! [`Secret`] has no `Debug`, `Display`, `Serialize`, `Clone` or `PartialEq`; its bytes are overwritten when it
//! goes; [`Secret::expose`] is the one door, and each caller of it is a line an auditor can find.
//!
//! ```compile_fail
//! let s = carboy_core::secret::Secret::new(String::from("x"));
//! println!("{s:?}");
//! ```
//! ```compile_fail
//! let s = carboy_core::secret::Secret::new(String::from("x"));
//! let t = s.clone();
//! ```

use zeroize::Zeroize;

/// Owns a value whose bytes are zeroised on drop and which nothing prints.
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes the value in.
    pub fn new(value: T) -> Self {
        Secret(value)
    }

    /// The one door. Keep the borrow short and never format it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A secret text, the usual case.
pub type SecretText = Secret<String>;
