//! The daemons people run, as their projects document them: `tests/data/corpus`. Nothing in them is refused, and what they
//! become is stored beside each, as it differs from the pod of defaults.

use super::*;

/// Each manifest with its file.
fn manifests() -> Vec<(PathBuf, Value)> {
    let manifest = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let value = serde_saphyr::from_str_with_options(&text, options);
        (file.clone(), value.unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    };
    let is_manifest = |file: &PathBuf| file.extension().is_some_and(|end| end == "yaml");
    files("corpus").into_iter().filter(is_manifest).map(manifest).collect()
}

#[test]
fn what_projects_document_becomes_what_a_kubelet_would_ask_for() {
    let (base, _) = defaults();
    let manifests = manifests();
    assert!(manifests.len() >= 25);
    for (file, mut manifest) in manifests {
        manifest["metadata"].as_object_mut().unwrap().entry("namespace").or_insert(json!("default"));
        // Whether a pod has a token is decided when it is admitted.
        manifest["spec"]["template"]["spec"]["automountServiceAccountToken"] = json!(false);
        let lines = differences(&base, &requests(&admitted(&manifest), &Surroundings::new()));
        compare(&file.with_extension("requests"), "", &format!("{}\n", lines.join("\n")));
    }
}
