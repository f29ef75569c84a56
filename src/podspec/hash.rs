//! The hash that says whether a container still is what the pod defines.
//!
//! Part of the frozen surface: another value for the same definition would restart every container of a fleet when the
//! agent is upgraded.

/// 32-bit FNV-1a over the container's name and image, in hex without leading zeros.
///
/// Only these two count, as upstream: nothing else of a pod's container can change while the pod exists. The value itself
/// differs from upstream's, which hashes a dump of Go structures.
///
/// Source: kubernetes v1.36 `pkg/kubelet/container/helpers.go`, `HashContainer`.
pub fn spec_hash(name: &str, image: &str) -> String {
    // Neither can contain the separator.
    let bytes = name.bytes().chain([0]).chain(image.bytes());
    let sum = bytes.fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{sum:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_definition_never_changes() {
        assert_eq!(spec_hash("fluentd", "fluentd:v1.16"), "a4bc9bb3");
        assert_eq!(spec_hash("a", "b"), "10f3abd2");
        assert_ne!(spec_hash("ab", ""), spec_hash("a", "b"));
    }
}
