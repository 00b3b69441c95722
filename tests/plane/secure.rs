//! Kafka over TLS, for users by a password and for holders of a certificate: a daemon as it ships and real workers deliver
//! everything, and with a wrong root, a wrong password or no certificate nothing, and say why.

use crate::daemon::acknowledged;
use crate::judge::stored;
use crate::plane::{PATIENCE, Plane, Wants, text};
use crate::{LOAD, STAND_IN, SUBJECT};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use support::daemon::Daemon;
use support::netns::until;
use support::report;
use support::scene::Scene;

/// Whom the broker knows, and by what.
const USER: &str = "caracal";
const PASSWORD: &str = "correct-horse";
/// Calls of one burst.
const CALLS: usize = 8;

/// What a broker with TLS and its clients need.
pub(crate) struct Secure {
    dir: PathBuf,
    place: PathBuf,
}

impl Secure {
    /// Makes certificates, keys and a password below `dir`, and puts into the place of Kafka what it starts with.
    pub(crate) fn prepare(dir: &Path) -> Secure {
        let secure = Secure { dir: dir.join("secure"), place: dir.join("services/kafka") };
        for dir in [&secure.dir, &secure.place] {
            std::fs::create_dir_all(dir).expect("a directory");
        }
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
        };
        let (ours, other) = (authority("Kafka's"), authority("another"));
        let certified = |issuer: &CertifiedIssuer<'static, KeyPair>| {
            let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().expect("a key");
            (params.signed_by(&key, issuer).expect("a certificate").pem(), key.serialize_pem())
        };
        let (certificate, key) = certified(&ours);
        std::fs::write(secure.place.join("keystore.pem"), key + &certificate).expect("written");
        std::fs::write(secure.place.join("truststore.pem"), ours.pem()).expect("written");
        let scram = format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]");
        std::fs::write(secure.place.join("scram"), scram).expect("written");
        let ((host, host_key), (stranger, stranger_key)) = (certified(&ours), certified(&other));
        for (name, content) in [
            ("roots.pem", ours.pem().as_str()),
            ("other-roots.pem", other.pem().as_str()),
            ("password", PASSWORD),
            ("other-password", "wrong-horse"),
            ("host.pem", &host),
            ("host.key", &host_key),
            ("other-host.pem", &stranger),
            ("other-host.key", &stranger_key),
        ] {
            std::fs::write(secure.dir.join(name), content).expect("written");
        }
        secure
    }

    fn server(&self, listener: &str) -> String {
        let port = std::fs::read_to_string(self.place.join(listener)).expect("a port");
        format!("127.0.0.1:{}", port.trim())
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// A configuration that goes to `servers`, in place of one that goes to the listener without TLS.
    fn over(&self, plain: &str, listener: &str, more: &str) -> String {
        let (first, rest) = plain.split_once('\n').expect("lines");
        let (_, rest) = rest.split_once('\n').expect("lines");
        format!("{first}\nservers = \"{}\"\n{rest}{more}", self.server(listener))
    }

    /// `[kafka]` of a user by a password.
    fn password(&self, plain: &str, roots: &str, password: &str) -> String {
        let more = format!(
            "[kafka.tls]\nroots = \"{}\"\n[kafka.sasl]\nmechanism = \"SCRAM-SHA-512\"\nuser = \"{USER}\"\npassword_file = \"{}\"\n",
            self.path(roots),
            self.path(password)
        );
        self.over(plain, "sasl-ssl", &more)
    }

    /// `[kafka]` of the holder of a certificate.
    fn certificate(&self, plain: &str, holder: Option<&str>) -> String {
        let shown = holder.map(|name| {
            let (certificate, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
            format!("certificate = \"{certificate}\"\nkey = \"{key}\"\n")
        });
        let more = format!("[kafka.tls]\nroots = \"{}\"\n{}", self.path("roots.pem"), shown.unwrap_or_default());
        self.over(plain, "mutual-tls", &more)
    }

    /// What must not get in: its name, its configuration, and the code that it is told by.
    fn wrong(&self, plain: &str) -> [(&'static str, String, &'static str); 4] {
        [
            ("a root that did not sign", self.password(plain, "other-roots.pem", "password"), "kafka_tls"),
            ("a wrong password", self.password(plain, "roots.pem", "other-password"), "kafka_login"),
            ("no certificate", self.certificate(plain, None), "kafka_tls"),
            ("a stranger's certificate", self.certificate(plain, Some("other-host")), "kafka_tls"),
        ]
    }

    fn right(&self, plain: &str) -> [String; 2] {
        [self.password(plain, "roots.pem", "password"), self.certificate(plain, Some("host"))]
    }
}

#[test]
fn records_go_over_tls_to_whom_both_ends_know() {
    report::case(SUBJECT, "Kafka over TLS, by a password and by a certificate", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        scene.net.a.inside(|| Ok(delivered(&scene))).expect("the host's namespace")
    });
}

fn delivered(scene: &Scene) -> Map<String, Value> {
    let plane = Plane::with(Wants { partitions: 1, secure: true, apart: true, ..Wants::default() });
    let (secure, plain) = (plane.secure(), plane.kafka_section());
    let rules = |kafka: &str| {
        let budget = "[[budget]]\nname = \"purse\"\nlimit = \"100 USD\"\nwindow = \"total\"\n";
        format!("{kafka}\n[[allow]]\nhosts = [\"api.openai.com\"]\n\n{budget}")
    };
    let mut daemon = Daemon::configured(scene, &rules(&plain));
    let mut burst = 0;
    let mut call = |daemon: &Daemon<'_>| {
        let cap = (1_000 + burst * CALLS).to_string();
        burst += 1;
        let args = ["--clients", "2", "--requests", &CALLS.to_string(), "--cap-base", &cap, "--words", "output=40"];
        let ran = daemon.run(LOAD).args(args).limit(PATIENCE).ran().ok();
        let answered = ran.stdout.lines().filter(|line| line.contains("\"status\":200")).count();
        assert_eq!(answered, CALLS, "no call waits for Kafka\n{}\n{}", ran.screen(), daemon.logs());
    };
    for (name, kafka, code) in secure.wrong(&plain) {
        daemon.configure(&rules(&kafka));
        daemon.restart();
        call(&daemon);
        told(&daemon, name, code);
        assert_eq!(in_kafka(&plane), 0, "with {name} nothing is delivered");
        daemon.stop();
    }
    let mut sent = Vec::new();
    for kafka in secure.right(&plain) {
        daemon.configure(&rules(&kafka));
        daemon.restart();
        call(&daemon);
        acknowledged(&daemon);
        assert!(daemon.json(&["status"])["data_path"]["kafka"]["trouble"].is_null(), "{}", daemon.logs());
        sent.push(in_kafka(&plane));
        daemon.stop();
    }
    assert!(0 < sent[0] && sent[0] < sent[1], "messages after the password and after the certificate: {sent:?}");
    daemon.restart();
    let keys = daemon.command(&["ledger", "keys"]).ran().ok().stdout;
    plane.caracald(&["hosts", "enrol", text(&plane.file("host.pub", &keys))]);
    acknowledged(&daemon);

    let wrong = secure.wrong(&plain);
    for (name, kafka, code) in &wrong {
        let before = plane.times(&[code, "[kafka."]);
        let worker = plane.worker_but("ledger", &plain, kafka);
        let loud = until(name, PATIENCE, || plane.times(&[code, "[kafka."]) > before);
        assert!(loud.is_ok(), "the worker with {name} does not say {code}\n{}", plane.log());
        assert_eq!(plane.count("SELECT sum(size) FROM logs"), 0, "with {name} nothing is taken");
        drop(worker);
    }
    // A part by one way, all of it by the other.
    let [password, certificate] = secure.right(&plain);
    let worker = plane.worker_but("ledger", &plain, &password);
    let taken = until("records", PATIENCE, || stored(&plane).values().map(Vec::len).sum::<usize>() > 0);
    assert!(taken.is_ok(), "{}", plane.log());
    worker.stop();
    call(&daemon);
    acknowledged(&daemon);
    let worker = plane.worker_but("ledger", &plain, &certificate);
    let all = daemon.command(&["events", "--json", "--limit", "1000000"]).ran().ok().stdout.lines().count();
    let arrived = until("all records", PATIENCE, || plane.count("SELECT sum(size) FROM logs") >= all as u64);
    assert!(arrived.is_ok(), "{} of {all}\n{}", plane.count("SELECT sum(size) FROM logs"), plane.log());
    plane.settled(all as u64);
    assert!(plane.agrees(&["ledger", "verify", "--fleet"]), "caracald's own audit");
    worker.stop();
    daemon.stop();
    Map::from_iter([("records".into(), json!(all)), ("refused".into(), json!(wrong.map(|(name, ..)| name)))])
}

/// The daemon says why nothing goes on, and what to do: to programs and to people.
fn told(daemon: &Daemon<'_>, name: &str, code: &str) {
    let kafka = || daemon.json(&["status"])["data_path"]["kafka"].clone();
    let loud = until(name, PATIENCE, || kafka()["trouble"].as_str().is_some_and(|why| why.starts_with(code)));
    assert!(loud.is_ok(), "with {name} `status` says {}\n{}", kafka(), daemon.logs());
    let waiting = until("a backlog", PATIENCE, || kafka()["backlog"].as_u64() >= Some(2 * CALLS as u64));
    assert!(waiting.is_ok(), "{}", kafka());
    let screen = daemon.command(&["status"]).ran().ok().stdout;
    let line = screen.lines().find(|line| line.starts_with("kafka: ")).expect("a line about Kafka");
    assert!(line.contains(code) && line.contains("[kafka.") && line.contains("caracald upgrade"), "{line}");
    assert!(daemon.logs().contains(code), "the daemon's own log says it, too: {}", daemon.logs());
}

/// Messages of the topic.
fn in_kafka(plane: &Plane) -> i64 {
    let consumer: BaseConsumer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", &plane.kafka).create().expect("a consumer");
    consumer.fetch_watermarks(&plane.topic, 0, PATIENCE).expect("watermarks").1
}
