//! The SDKs are content with the stand-in's shapes.

use crate::STAND_IN;
use support::programs;
use support::scene::Scene;

#[test]
fn python_and_node_read_every_shape() {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let openai = include_str!("../programs/openai_all.py");
    let ran = scene.direct(programs::python()).args(["-c", openai]).env("OPENAI_API_KEY", "sk-stand-in").ran().ok();
    assert!(ran.stdout.contains("chat: word0") && ran.stdout.contains("responses: word0"), "{}", ran.screen());
    assert!(ran.stdout.contains("usage chunks: 1 of 1 asked, 0 of 1 not asked"), "{}", ran.screen());
    let anthropic = include_str!("../programs/anthropic_all.py");
    let ran =
        scene.direct(programs::python()).args(["-c", anthropic]).env("ANTHROPIC_API_KEY", "sk-ant-stand-in").ran().ok();
    assert!(ran.stdout.contains("message: word0") && ran.stdout.contains("stream: word0"), "{}", ran.screen());
    let node = include_str!("../programs/openai_all.mjs");
    let script = scene.home.path().join("all.mjs");
    std::fs::write(&script, node.replace("NODE_PREFIX", &programs::node_prefix().display().to_string()))
        .expect("a script");
    let ran = scene.direct(programs::host("node")).arg(script).env("OPENAI_API_KEY", "sk-stand-in").ran().ok();
    assert!(ran.stdout.contains("chat: word0") && ran.stdout.contains("responses: word0"), "{}", ran.screen());
    let node = include_str!("../programs/anthropic_all.mjs");
    let script = scene.home.path().join("anthropic.mjs");
    std::fs::write(&script, node.replace("NODE_PREFIX", &programs::node_prefix().display().to_string()))
        .expect("a script");
    let ran = scene.direct(programs::host("node")).arg(script).env("ANTHROPIC_API_KEY", "sk-ant-stand-in").ran().ok();
    assert!(ran.stdout.contains("message: word0") && ran.stdout.contains("stream: word0"), "{}", ran.screen());
    assert_eq!(scene.bill().len(), 5 + 2 + 4 + 2);
}
