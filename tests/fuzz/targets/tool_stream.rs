#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| caracal_daemon::fuzzing::tool_stream(bytes));
