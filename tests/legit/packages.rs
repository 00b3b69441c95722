//! pip, npm and cargo: a package each, from registries that the other host plays.

use crate::{case, directory, file, recorded, refused};
use support::programs;
use support::scene::Scene;

const RULES: &str = r#"
[[allow]]
hosts = ["pypi.org", "files.pythonhosted.org", "registry.npmjs.org", "index.crates.io", "static.crates.io"]
"#;

/// Fills the registries' hosts.
fn registries(scene: &Scene) {
    let script = include_str!("../programs/registries.py");
    let run = scene.net.b.run("python3").args(["-c", script]).arg(scene.sites());
    let _ran = run.ran().ok();
}

#[test]
fn pip_installs_a_wheel() {
    case("pip installs a wheel", RULES, registries, |scene, daemon, _| {
        let home = directory(scene, "site");
        let install = |package: &str| {
            let run = daemon.run(programs::python());
            let run = run.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--target"]);
            run.arg(&home).arg(package)
        };
        let _ran = install("caracal-demo").ran().ok();
        let run = scene.agent(programs::python()).env("PYTHONPATH", &home);
        let said = run.args(["-c", "import caracal_demo; print(caracal_demo.said())"]).ran().ok().stdout;
        assert_eq!(said.trim(), "hello from the wheel");
        recorded(daemon, "request", "pypi.org", 443);
        recorded(daemon, "request", "files.pythonhosted.org", 443);
        // Another index: pip says what we say.
        let run = install("caracal-demo").args(["--force-reinstall", "--retries", "0"]);
        let ran = run.args(["--index-url", "https://denied.example/simple"]).ran();
        assert_ne!(ran.code, Some(0), "{}", ran.screen());
        refused(daemon, "host_not_allowed", "denied.example");
        assert_eq!(scene.requests("denied.example", "/simple/caracal-demo/"), 0);
    });
}

#[test]
fn npm_installs_a_package() {
    case("npm installs a package", RULES, registries, |scene, daemon, _| {
        let dir = directory(scene, "project");
        let _manifest = file(&dir, "package.json", "{\"private\": true}\n");
        let npm = |words: &[&str]| {
            let run = daemon.run(programs::host("npm")).args(["--no-audit", "--no-fund", "--no-update-notifier"]);
            run.args(["--fetch-retries", "0"]).args(words).dir(&dir)
        };
        let _ran = npm(&["install", "caracal-demo"]).ran().ok();
        let run = scene.agent(programs::host("node")).dir(&dir);
        let said = run.args(["-e", "console.log(require('caracal-demo').said())"]).ran().ok().stdout;
        assert_eq!(said.trim(), "hello from the package");
        recorded(daemon, "request", "registry.npmjs.org", 443);
        let ran = npm(&["install", "another", "--registry", "https://denied.example/"]).ran();
        assert_ne!(ran.code, Some(0), "{}", ran.screen());
        assert!(ran.screen().contains("403"), "{}", ran.screen());
        refused(daemon, "host_not_allowed", "denied.example");
    });
}

#[test]
fn cargo_fetches_a_crate() {
    case("cargo fetches a crate", RULES, registries, |scene, daemon, _| {
        let dir = directory(scene, "crate");
        let manifest = "[package]\nname = \"user\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\n";
        let _manifest = file(&dir, "Cargo.toml", &format!("{manifest}caracal-demo = \"1\"\n"));
        let _source = file(&directory(scene, "crate/src"), "lib.rs", "pub use caracal_demo::said;\n");
        let cargo = || daemon.run("cargo").arg("fetch").env("CARGO_NET_RETRY", "0").dir(&dir);
        let _ran = cargo().ran().ok();
        let vendored = scene.agent("sh").args(["-c", "cat .cargo/registry/src/*/caracal-demo-1.0.0/src/lib.rs"]);
        assert!(vendored.ran().ok().stdout.contains("hello from the crate"));
        recorded(daemon, "request", "index.crates.io", 443);
        recorded(daemon, "request", "static.crates.io", 443);
        let other = "\n[registries.other]\nindex = \"sparse+https://denied.example/\"\n";
        let _config = file(&directory(scene, "crate/.cargo"), "config.toml", other);
        let text = format!("{manifest}more = {{ version = \"1\", registry = \"other\" }}\n");
        let _manifest = file(&dir, "Cargo.toml", &text);
        let ran = cargo().ran();
        assert_ne!(ran.code, Some(0), "{}", ran.screen());
        refused(daemon, "host_not_allowed", "denied.example");
    });
}
