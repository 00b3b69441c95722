//! librdkafka as `[kafka]` says. It dials by itself, and only the brokers that the operator named and those that they name.

use crate::config::{Kafka, secret};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

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

/// What kind of trouble a client has with its brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// One end does not trust the other's certificate, or does not speak TLS.
    Tls,
    /// The brokers do not know the user, or not by this password.
    Login,
    /// The user lacks a right.
    Denied,
    /// No broker answers.
    Away,
    /// Anything else.
    Other,
}

impl Trouble {
    /// What kind an error of the client is. `reason`: its words.
    #[must_use]
    pub fn of(error: &KafkaError, reason: &str) -> Trouble {
        use RDKafkaErrorCode as Code;
        match error {
            // Files of [kafka.tls] are read when a client is made.
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) if error.to_string().contains("ssl.") => {
                return Trouble::Tls;
            }
            _ => {}
        }
        match error.rdkafka_error_code() {
            Some(Code::SSL) => Trouble::Tls,
            // OpenSSL's own words: librdkafka has them now and then as a failure of the transport. With TLS 1.3 a broker also refuses
            // a client's certificate only when the client takes the handshake for done.
            Some(Code::BrokerTransportFailure) if reason.contains("SSL routines") => Trouble::Tls,
            Some(
                Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::UnsupportedSASLMechanism
                | Code::IllegalSASLState,
            ) => Trouble::Login,
            Some(
                Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed,
            ) => Trouble::Denied,
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve | Code::OperationTimedOut) => {
                Trouble::Away
            }
            _ => Trouble::Other,
        }
    }

    /// A stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Trouble::Tls => "kafka_tls",
            Trouble::Login => "kafka_login",
            Trouble::Denied => "kafka_denied",
            Trouble::Away => "kafka_away",
            Trouble::Other => "kafka_trouble",
        }
    }

    /// What the operator does about it.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        match self {
            Trouble::Tls => {
                "[kafka.tls] roots must hold the CA of the brokers' certificates, which must be for the names in `servers`; where \
                 brokers ask for a certificate, `certificate` and `key` must be ones that they know. Then `caracald upgrade`, or \
                 restart the worker"
            }
            Trouble::Login => {
                "correct mechanism, user or password_file in [kafka.sasl], then `caracald upgrade`, or restart the worker"
            }
            Trouble::Denied => "give the user the rights of docs/OPERATING.md, \"Kafka and Redis\"",
            Trouble::Away => "it goes on by itself once a broker of `servers` answers",
            Trouble::Other => "it is tried again; the brokers' logs may say more",
        }
    }

    /// All of it in one line; `reason` is the client's.
    #[must_use]
    pub fn tell(self, reason: &str) -> String {
        format!("{}: {reason}: {}", self.code(), self.next_step())
    }
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

    /// A file that is not there is trouble with TLS, as a certificate that nobody trusts is.
    #[test]
    fn roots_that_are_not_there_are_trouble_with_tls() {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1").set("security.protocol", "ssl");
        config.set("ssl.ca.location", "/nowhere/ca.pem");
        let error = config.create::<rdkafka::producer::BaseProducer>().err().expect("no client");
        let told = Trouble::of(&error, "").tell(&error.to_string());
        assert!(told.starts_with("kafka_tls: ") && told.contains("ssl.ca.location"), "{told}: {error:?}");
        for (error, reason, code) in [
            (RDKafkaErrorCode::Authentication, "", "kafka_login"),
            (RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down", "kafka_away"),
            (RDKafkaErrorCode::BrokerTransportFailure, "Connection refused", "kafka_away"),
            (
                RDKafkaErrorCode::BrokerTransportFailure,
                "Receive failed: error:0A000412:SSL routines::sslv3 alert bad certificate: SSL alert number 42",
                "kafka_tls",
            ),
            (RDKafkaErrorCode::BrokerTransportFailure, "Disconnected: SSL connection closed by peer", "kafka_away"),
            (RDKafkaErrorCode::TopicAuthorizationFailed, "", "kafka_denied"),
        ] {
            assert_eq!(Trouble::of(&KafkaError::Global(error), reason).code(), code, "{error}: {reason}");
        }
    }
}
