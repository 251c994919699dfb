//! On a machine without RDMA.

use std::path::Path;

use meander_verbs::{OpenError, VerbsConfig, VerbsTransport};

/// Where there is no device the error says so, whether the library is there or not; nothing ends.
#[test]
fn opening_without_a_device_is_an_error_that_says_what_to_do() {
    let opened = VerbsTransport::open(&VerbsConfig::default());
    let here = Path::new("/sys/class/infiniband");
    let devices = here.read_dir().map_or(0, Iterator::count);
    match opened {
        Ok(_) => assert!(devices > 0, "a device out of nowhere"),
        Err(error @ OpenError::NoLibrary { .. }) => assert!(error.to_string().contains("install")),
        Err(error @ OpenError::NoDevice) => {
            assert_eq!(devices, 0);
            assert!(error.to_string().contains("driver"));
        }
        Err(error) => assert!(devices > 0, "{error}"),
    }
}
