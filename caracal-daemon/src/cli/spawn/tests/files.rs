//! What a command sees of the file system: our bundle in place of the host's, nothing hidden, controls to read only.

use super::*;

#[test]
fn covered_and_hidden_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("bundle"), "ours").unwrap();
    std::fs::write(path("store"), "theirs").unwrap();
    std::os::unix::fs::symlink(path("store"), path("link")).unwrap();
    std::fs::create_dir(path("control")).unwrap();
    std::fs::write(path("control/socket"), "x").unwrap();
    let p = |name: &str| path(name).display().to_string();
    let script = format!(
        "env -i /bin/sh -c '/bin/grep -qx ours {} && /bin/grep -qx ours {} && test -z \"$(/bin/ls {})\"'",
        p("store"),
        p("link"),
        p("control")
    );
    let mut job = sh(&script);
    job.covers = ["link", "store", "absent"].map(|name| (path("bundle"), path(name))).into();
    job.hide = vec![path("control"), path("absent")];
    passes(&job);
    assert_eq!(std::fs::read_to_string(path("store")).unwrap(), "theirs", "the host keeps its own");
    assert!(path("control/socket").exists());

    job.covers = vec![(path("control/socket"), path("store"))];
    let (code, text) = output(User::Root, &job);
    assert_eq!(code, Some(125));
    assert!(text.contains("cover_hidden"), "{text}");
}

/// As a crash leaves it: the mount is there, over another one, and the file that it shows has no name any more.
#[test]
fn the_mount_of_a_deleted_file_is_taken_away_or_named() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            while umount2(&self.0, MntFlags::MNT_DETACH).is_ok() {}
        }
    }
    assert!(as_root(), "needs root to mount: run `cargo xtask test unit`");
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["bundle", "store", "one", "another"] {
        std::fs::write(path(name), name).unwrap();
    }
    let mounted = Mounted(path("store"));
    for name in ["one", "another"] {
        mount(Some(&path(name)), &mounted.0, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    std::fs::remove_file(path("another")).unwrap();
    let mut job = sh(&format!("/bin/grep -qx bundle {}", mounted.0.display()));
    job.covers = vec![(path("bundle"), path("store"))];
    let (code, text) = output(User::Root, &job);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(std::fs::read_to_string(&mounted.0).unwrap(), "another", "the host keeps its mounts");
    let (code, text) = output(User::Nobody, &job);
    assert_eq!(code, Some(125), "{text}");
    assert!(text.contains("stale_mount") && text.contains(&format!("sudo umount {}", mounted.0.display())), "{text}");
    drop(mounted);
    for user in users() {
        assert_eq!(output(user, &job).0, Some(0), "{user:?}");
    }
}

/// The store that programs read when their environment was cleared is the bundle, and the host's stays as it was.
#[test]
fn the_system_store_is_the_bundle() {
    let mut stores = crate::cli::trust::bundle::SYSTEM_BUNDLES.iter();
    let store = stores.find(|path| Path::new(path).exists()).expect("a system store: install ca-certificates");
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::new(vec!["ca.test".into()]).unwrap().self_signed(&key).unwrap().pem();
    let trust = crate::cli::trust::prepare(&ca, &[], dir.path()).unwrap();
    let before = std::fs::read(store).unwrap();
    let mut job = sh(&format!("env -i /usr/bin/cmp {store} {}", trust.bundle.display()));
    job.covers = Cover::trust(&trust).into_iter().map(|cover| (cover.source, cover.target)).collect();
    passes(&job);
    assert_eq!(std::fs::read(store).unwrap(), before);
    assert_ne!(std::fs::read(&trust.bundle).unwrap(), before);
}

#[test]
fn a_child_that_cannot_be_confined_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("source")).unwrap();
    std::fs::write(dir.path().join("target"), "").unwrap();
    let mark = dir.path().join("ran");
    let mut job = sh(&format!("touch {}", mark.display()));
    // A directory cannot be mounted over a file.
    job.covers = vec![(dir.path().join("source"), dir.path().join("target"))];
    if as_root() {
        let (code, text) = output(User::Root, &job);
        assert_eq!(code, Some(125));
        assert!(text.contains("not_confined: the command was not run"), "{text}");
        assert!(!mark.exists());
    }
}

#[test]
fn cgroups_and_the_kernels_controls_are_read_only() {
    passes(&sh("for f in $(awk '$3 ~ /^cgroup/ {print $2 \"/cgroup.procs\"}' /proc/self/mounts); do \
           (echo $$ > $f) 2>/dev/null && { echo wrote $f; exit 1; }; done; \
         (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null && exit 2; \
         mount -t tmpfs none /mnt 2>/dev/null && exit 3; \
         umount /proc/sys 2>/dev/null && exit 4; exit 0"));
}
