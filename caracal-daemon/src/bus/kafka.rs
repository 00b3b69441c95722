//! librdkafka as `[kafka]` says. It dials by itself, and only the brokers that the operator named and those that they name.

use crate::config::{Kafka, secret};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

/// Why Kafka cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A secret's file.
    #[error("[kafka.sasl] password_file {0}")]
    Secret(#[from] std::io::Error),
    /// The client.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
}

/// What every client of these brokers begins with.
///
/// # Errors
/// When the password's file cannot be read.
pub fn client(kafka: &Kafka) -> Result<ClientConfig, BusError> {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Error);
    config.set("bootstrap.servers", &kafka.servers).set("client.id", "caracald").set("log.connection.close", "false");
    // A connection that a cut has silenced is given up after this, ms, rather than after a minute.
    config.set("socket.timeout.ms", "10000");
    config.set(
        "security.protocol",
        match (&kafka.tls, &kafka.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        },
    );
    if let Some(tls) = &kafka.tls {
        let paths = [
            ("ssl.ca.location", &tls.roots),
            ("ssl.certificate.location", &tls.certificate),
            ("ssl.key.location", &tls.key),
        ];
        for (key, path) in paths {
            if let Some(path) = path {
                config.set(key, path.display().to_string());
            }
        }
    }
    if let Some(sasl) = &kafka.sasl {
        config.set("sasl.mechanism", sasl.mechanism.name()).set("sasl.username", &sasl.user);
        config.set("sasl.password", secret(&sasl.password_file)?);
    }
    Ok(config)
}

/// A producer that neither loses, doubles nor reorders while it lives, and never gives up by itself.
///
/// # Errors
/// When the password's file cannot be read.
pub fn producer(kafka: &Kafka) -> Result<ClientConfig, BusError> {
    let mut config = client(kafka)?;
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        // No time limit: a message that was given up would be a hole in the middle of what follows.
        .set("message.timeout.ms", "0")
        .set("queue.buffering.max.messages", "100000")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("retry.backoff.ms", "50")
        .set("retry.backoff.max.ms", "1000");
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mechanism, Sasl, Tls};

    #[test]
    fn tls_and_sasl_are_what_the_client_gets() {
        let dir = tempfile::tempdir().expect("a directory");
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, "s3cret\n").expect("written");
        let config = crate::config::Config::parse("[kafka]\nservers = \"k:9093\"\n", "c.toml".as_ref())
            .expect("a configuration");
        let mut kafka = config.kafka.expect("kafka");
        assert_eq!(producer(&kafka).expect("a client").get("security.protocol"), Some("plaintext"));
        kafka.tls = Some(Tls { roots: Some("/ca.pem".into()), ..Tls::default() });
        kafka.sasl =
            Some(Sasl { mechanism: Mechanism::ScramSha512, user: "h".into(), password_file: password_file.clone() });
        let client = producer(&kafka).expect("a client");
        for (key, value) in [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "/ca.pem"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.password", "s3cret"),
            ("enable.idempotence", "true"),
            ("acks", "all"),
        ] {
            assert_eq!(client.get(key), Some(value), "{key}");
        }
        std::fs::remove_file(password_file).expect("removed");
        assert!(matches!(producer(&kafka), Err(BusError::Secret(_))));
    }
}
