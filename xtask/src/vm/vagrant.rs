//! vagrant/Vagrantfile is for people; what can be known of it here without fetching a box is that vagrant takes it.

use std::process::Command;

use crate::{
    checkout::Checkout,
    progress,
    report::{Case, Verdict},
    setup,
};

/// One case: `vagrant validate`.
pub(crate) fn validate(checkout: &Checkout) -> Case {
    let name = "vagrant takes vagrant/Vagrantfile";
    if let Err(error) = setup::for_vagrant(checkout) {
        return Case::omitted(name, 1, format!("vagrant cannot be had here: {error:#}"));
    }
    let home = checkout.target.join("vagrant");
    let mut command = Command::new("vagrant");
    command
        .args(["validate", "--ignore-provider"])
        .current_dir(checkout.root.join("vagrant"))
        // Nothing beside the Vagrantfile, and no question about newer versions.
        .env("VAGRANT_HOME", home.join("home"))
        .env("VAGRANT_DOTFILE_PATH", home.join("state"))
        .env("VAGRANT_CHECKPOINT_DISABLE", "1");
    match progress::quietly("vagrant validate", &mut command, &checkout.log("vagrant")) {
        Ok(()) => Case::new(name, Verdict::Passed),
        Err(error) => Case::new(name, Verdict::Failed).because(format!("{error:#}")),
    }
}
