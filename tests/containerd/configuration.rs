//! ConfigMaps, Secrets and volumes: seen from inside, followed while they change, missed, and attacked.

use crate::harness::{Node, Task, shell_daemonset};

const OBJECTS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: app}
data: {level: debug, app.conf: 'one=1'}
---
apiVersion: v1
kind: Secret
metadata: {name: app}
stringData: {password: hunter2}
---
";

/// A DaemonSet as [`shell_daemonset`] makes it, with an annotation at its pod.
fn manifest(name: &str, script: &str, container: &str, pod: &str) -> String {
    let labels = format!("metadata: {{labels: {{app: {name}}}");
    let noted = format!("{labels}, annotations: {{note: \"a\\tb\"}}");
    shell_daemonset(name, script, container, pod).replace(&labels, &noted)
}

/// The task of the container that runs `sleep`, as all of these do.
fn sleeper(node: &Node) -> Task {
    node.eventually("a container sleeps", |node| {
        let tasks = node.tasks();
        let sleeps =
            |task: &&Task| node.read(&format!("/proc/{}/cmdline", task.pid)).is_some_and(|line| line.contains("sleep"));
        tasks.iter().find(sleeps).cloned().ok_or_else(|| format!("{tasks:?}"))
    })
}

/// Waits until a file that a process sees has this content.
fn file_is(node: &Node, task: &Task, path: &str, expected: &str) {
    node.eventually(&format!("{path} holds {expected:?}"), |node| {
        let found = node.read(&format!("/proc/{}/root{path}", task.pid));
        if found.as_deref() == Some(expected) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn a_container_finds_everything_it_is_told() {
    let mut node = Node::up("config");
    node.garrison_up();
    let look = "tr \"\\0\" \"\\n\" </proc/1/environ; for f in /config/* /secret/* /fields/* /all/key /all/sub/*; do echo \"$f $(stat -L -c %a:%u:%g $f)\"; cat $f; echo; done; \
                grep -E \" /(config|secret|ram|part) \" /proc/mounts; cat /part; id -G; touch /config/x; touch /scratch/x && \
                stat -c %a:%g /scratch; ls /host; echo end";
    let container = "          envFrom:
            - {prefix: C_, configMapRef: {name: app}}
            - {secretRef: {name: absent, optional: true}}
          env:
            - {name: PASSWORD, valueFrom: {secretKeyRef: {name: app, key: password}}}
            - {name: NONE, valueFrom: {configMapKeyRef: {name: app, key: absent, optional: true}}}
            - {name: URL, value: 'http://$(IP)/$(C_level)'}
            - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
            - {name: AGAIN, value: 'http://$(IP)/$(C_level)'}
          volumeMounts:
            - {name: config, mountPath: /config}
            - {name: secret, mountPath: /secret}
            - {name: fields, mountPath: /fields}
            - {name: all, mountPath: /all}
            - {name: ram, mountPath: /ram}
            - {name: scratch, mountPath: /scratch}
            - {name: config, mountPath: /part, subPath: app.conf}
            - {name: host, mountPath: /host, subPathExpr: 'logs/$(C_level)'}
";
    let host = node.path("host");
    std::fs::create_dir_all(host.join("logs/debug/found")).unwrap();
    let pod = format!(
        "      securityContext: {{fsGroup: 2000}}
      volumes:
        - {{name: config, configMap: {{name: app}}}}
        - {{name: secret, secret: {{secretName: app, defaultMode: 0400}}}}
        - name: fields
          downwardAPI: {{items: [{{path: note, fieldRef: {{fieldPath: metadata.annotations}}}}]}}
        - name: all
          projected:
            defaultMode: 0440
            sources:
              - configMap: {{name: app, items: [{{key: level, path: sub/level}}]}}
              - secret: {{name: app, items: [{{key: password, path: key, mode: 0400}}]}}
              - configMap: {{name: absent, optional: true}}
        - {{name: ram, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
        - {{name: scratch, emptyDir: {{}}}}
        - {{name: host, hostPath: {{path: {}}}}}
",
        host.display()
    );
    node.apply(&format!("{OBJECTS}{}", manifest("web", look, container, &pod)));
    let said = node.sees(&["logs", "daemonset/web"], &["end"]);
    let ip = node.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}"]);
    for line in [
        "C_level=debug\n",
        "C_app.conf=one=1\n",
        "PASSWORD=hunter2\n",
        "URL=http://$(IP)/debug\n",
        &format!("AGAIN=http://{}/debug\n", ip.trim()),
        "/config/level 644:0:2000\ndebug\n",
        "/secret/password 440:0:2000\nhunter2\n",
        "/fields/note 644:0:2000\nnote=\"a\\tb\"\n",
        "/all/key 440:0:2000\nhunter2\n",
        "/all/sub/level 440:0:2000\ndebug\n",
        "one=1",
        "touch: /config/x: Read-only file system",
        "2777:2000\n",
        "\nfound\nend",
    ] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
    assert!(!said.contains("NONE="), "what is optional and not there is absent:\n{said}");
    let mount =
        |path: &str| said.lines().find(|line| line.contains(&format!(" {path} "))).unwrap_or_default().to_owned();
    for (path, words) in [("/secret", ["tmpfs ", " ro"]), ("/ram", ["tmpfs ", "size=1024k"]), ("/part", [" ro", ""])] {
        assert!(words.iter().all(|word| mount(path).contains(word)), "{path}: {}", mount(path));
    }
    assert!(!mount("/config").starts_with("tmpfs"), "{}", mount("/config"));
    assert!(said.lines().any(|line| line.split(' ').any(|group| group == "2000")), "{said}");

    // Nothing of it is left once the pod is gone.
    node.kubectl(&["delete", "daemonset", "web"]);
    node.eventually("no volume is left", |node| {
        let mounts = node.read("/proc/mounts").unwrap_or_default();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(" /var/lib/kubelet/pods/")).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    assert!(host.join("logs/debug/found").is_dir(), "what the host has stays");
}

#[test]
fn objects_change_and_go_without_a_restart() {
    let mut node = Node::up("live");
    node.garrison_up();
    let container = "          volumeMounts:
            - {name: config, mountPath: /config}
            - {name: secret, mountPath: /secret}
            - {name: config, mountPath: /part, subPath: level}
";
    let pod = "      volumes:
        - {name: config, configMap: {name: app}}
        - {name: secret, secret: {secretName: app}}
";
    // The DaemonSet first: its pod waits for what it needs.
    node.apply(&manifest("web", "true", container, pod));
    node.sees(&["describe", "pods", "-l", "app=web"], &["FailedMount", "configmap \"app\" not found"]);
    node.apply(OBJECTS);
    node.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
    let (tasks, web) = (node.tasks(), sleeper(&node));
    file_is(&node, &web, "/config/level", "debug");

    node.kubectl(&[
        "patch",
        "configmap",
        "app",
        "-p",
        "{\"data\":{\"level\":\"info\",\"more\":\"new\",\"app.conf\":null}}",
    ]);
    node.kubectl(&["patch", "secret", "app", "-p", "{\"stringData\":{\"password\":\"changed\"}}"]);
    file_is(&node, &web, "/config/level", "info");
    file_is(&node, &web, "/config/more", "new");
    file_is(&node, &web, "/secret/password", "changed");
    assert_eq!(
        node.read(&format!("/proc/{}/root/config/app.conf", web.pid)),
        None,
        "what is gone is not shown any more"
    );
    file_is(&node, &web, "/part", "debug");
    assert_eq!(node.tasks(), tasks, "nothing was restarted");

    // Deleted: who has it keeps it, also over another agent and another container; who comes later is told.
    node.kubectl(&["delete", "configmap/app", "secret/app"]);
    node.kill_garrison();
    node.garrison_up();
    assert_eq!(node.tasks(), tasks);
    file_is(&node, &web, "/config/level", "info");
    node.kill(web.pid);
    node.sees(&["get", "pods", "--no-headers"], &["1/1", "Running", "1 ("]);
    let again = sleeper(&node);
    file_is(&node, &again, "/part", "info");
    node.kubectl(&["delete", "pods", "--all", "--wait=false"]);
    node.sees(&["describe", "pods", "-l", "app=web"], &["FailedMount", "configmap \"app\" not found"]);
    node.apply(OBJECTS);
    node.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
}

#[test]
fn what_is_missing_or_leads_astray_is_said_and_harms_nobody() {
    let mut node = Node::up("missing");
    node.garrison_up();
    let host = node.path("host");
    std::fs::create_dir_all(host.join("volume")).unwrap();
    std::fs::write(host.join("secret"), "not yours").unwrap();
    for (link, target) in [("up", ".."), ("absolute", "/etc"), ("file", "../secret")] {
        std::os::unix::fs::symlink(target, host.join("volume").join(link)).unwrap();
    }
    let key = "          env: [{name: A, valueFrom: {configMapKeyRef: {name: app, key: absent}}}]\n";
    let part = |path: &str| format!("          volumeMounts: [{{name: v, mountPath: /v, subPath: {path}}}]\n");
    let volume = format!("      volumes: [{{name: v, hostPath: {{path: {}/volume}}}}]\n", host.display());
    let secret = "      volumes: [{name: s, secret: {secretName: absent}}]\n";
    let all = [
        OBJECTS.to_owned(),
        manifest("key", "true", key, ""),
        manifest("absent", "true", "", secret),
        manifest("up", "true", &part("up"), &volume),
        manifest("absolute", "true", &part("absolute"), &volume),
        manifest("file", "true", &part("file"), &volume),
        manifest("good", "true", &part("new/dir"), &volume),
    ];
    node.apply(&all.concat());
    node.kubectl(&["rollout", "status", "daemonset/good", "--timeout=90s"]);
    assert!(host.join("volume/new/dir").is_dir());

    node.sees(&["get", "pods", "-l", "app=key"], &["0/1", "CreateContainerConfigError"]);
    node.sees(&["describe", "pods", "-l", "app=key"], &["couldn't find key absent in ConfigMap default/app"]);
    node.sees(&["describe", "pods", "-l", "app=absent"], &["FailedMount", "secret \"absent\" not found"]);
    for name in ["up", "absolute", "file"] {
        node.sees(
            &["describe", "pods", "-l", &format!("app={name}")],
            &["CreateContainerConfigError", "failed to prepare subPath for volumeMount \"v\" of container \"main\""],
        );
    }
    // What was missing comes.
    node.kubectl(&["patch", "configmap", "app", "-p", "{\"data\":{\"absent\":\"here\"}}"]);
    node.kubectl(&["rollout", "status", "daemonset/key", "--timeout=90s"]);
}

#[test]
fn a_folder_of_manifests_brings_its_own_configuration() {
    let mut node = Node::up("folder");
    let container = "          envFrom: [{secretRef: {name: app}}]
          volumeMounts: [{name: config, mountPath: /config}]
";
    let pod = "      volumes: [{name: config, configMap: {name: app}}]\n";
    node.write("manifests/web.yaml", &manifest("web", "true", container, pod));
    node.write("manifests/objects.yaml", OBJECTS);
    node.garrison_alone(&node.path("manifests"));
    let web = sleeper(&node);
    file_is(&node, &web, "/config/level", "debug");
    let environ = node.read(&format!("/proc/{}/environ", web.pid)).unwrap_or_default();
    assert!(environ.contains("password=hunter2"), "{environ}");

    node.write("manifests/objects.yaml", &OBJECTS.replace("debug", "info"));
    file_is(&node, &web, "/config/level", "info");
    std::fs::remove_file(node.path("manifests/objects.yaml")).unwrap();
    node.kill_garrison();
    node.garrison_alone(&node.path("manifests"));
    file_is(&node, &web, "/config/level", "info");
    node.kill(web.pid);
    let again = node.eventually("the container is restarted", |node| {
        let task = sleeper(node);
        if task == web { Err(format!("{task:?}")) } else { Ok(task) }
    });
    file_is(&node, &again, "/config/level", "info");
}

#[test]
fn an_image_is_a_volume_where_the_runtime_can_mount_it() {
    let mut node = Node::up("image-volume");
    node.garrison_up();
    let look = "ls /image/bin/busybox; touch /image/x; echo end";
    let container = "          volumeMounts: [{name: image, mountPath: /image}]\n";
    let pod = "      volumes: [{name: image, image: {reference: 'busybox:1.35'}}]\n";
    node.apply(&manifest("web", look, container, pod));
    if mounts_images() {
        let said = node.sees(&["logs", "daemonset/web"], &["/image/bin/busybox", "end"]);
        assert!(said.contains("touch: /image/x: Read-only file system"), "{said}");
        return;
    }
    node.sees(&["get", "pods", "-l", "app=web"], &["0/1", "CreateContainerConfigError"]);
    node.sees(&["describe", "pods", "-l", "app=web"], &["does not support image volumes; containerd does since 2.1"]);
}

/// Whether the machine's containerd is 2.1 or later.
fn mounts_images() -> bool {
    let shown = std::process::Command::new("containerd").arg("--version").output().expect("containerd is installed");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let version = shown.split_whitespace().nth(2).expect("it says its version").trim_start_matches('v').to_owned();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default()) >= (2, 1)
}
