#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| caracal_daemon::fuzzing::key_history(bytes));
