//! Whose price book it is: a detached ECDSA P-256 signature over the file's bytes, as
//! `openssl dgst -sha256 -sign key.pem -out prices.toml.sig prices.toml` writes it (DER, SEC 1 and RFC 5480).

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey as _;

/// Why a price book's signature was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The key is no PEM public key of P-256.
    #[error("the public key is not one of P-256 in PEM; `openssl ec -in key.pem -pubout` writes it")]
    Key,
    /// The signature is not one.
    #[error(
        "the signature is not one; sign with `openssl dgst -sha256 -sign key.pem -out prices.toml.sig prices.toml`"
    )]
    Form,
    /// Another key, or other bytes.
    #[error("the signature is not of this file by this key; sign the file again after each edit")]
    Wrong,
}

/// Checks that the owner of `public_key` (PEM) signed `text`; `signature` is DER.
///
/// # Errors
/// When that is not so.
pub fn verify(text: &[u8], signature: &[u8], public_key: &str) -> Result<(), SignatureError> {
    let key = VerifyingKey::from_public_key_pem(public_key).map_err(|_| SignatureError::Key)?;
    let signature = Signature::from_der(signature).map_err(|_| SignatureError::Form)?;
    key.verify(text, &signature).map_err(|_| SignatureError::Wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer as _;
    use p256::pkcs8::EncodePublicKey as _;

    #[test]
    fn only_the_owner_of_the_key_signs_and_only_these_bytes() -> Result<(), Box<dyn std::error::Error>> {
        let key = |byte: u8| SigningKey::from_slice(&[byte; 32]);
        let (own, other) = (key(7)?, key(9)?);
        let pem = own.verifying_key().to_public_key_pem(p256::pkcs8::LineEnding::LF)?;
        let signed = |key: &SigningKey| {
            let signature: Signature = key.sign(b"prices");
            signature.to_der().as_bytes().to_vec()
        };
        assert_eq!(verify(b"prices", &signed(&own), &pem), Ok(()));
        assert_eq!(verify(b"Prices", &signed(&own), &pem), Err(SignatureError::Wrong));
        assert_eq!(verify(b"prices", &signed(&other), &pem), Err(SignatureError::Wrong));
        assert_eq!(verify(b"prices", b"no", &pem), Err(SignatureError::Form));
        assert_eq!(verify(b"prices", &signed(&own), "no"), Err(SignatureError::Key));
        Ok(())
    }
}
