//! Who a container is, what it may do, and what it is called: seen from inside, and through the API.

use std::io::{self, Write as _};

use crate::harness::{Node, shell_daemonset as manifest};

/// Waits until a DaemonSet's pod has said all of this.
fn said(node: &Node, name: &str, parts: &[&str]) -> String {
    node.sees(&["logs", &format!("daemonset/{name}")], parts)
}

#[test]
fn a_container_is_and_may_do_what_its_security_context_says() {
    let mut node = Node::up("security");
    node.garrison_up();
    let look = "id; grep -E \"CapEff|NoNewPrivs|Seccomp:\" /proc/self/status; touch /x; echo touched=$?; \
                cat /proc/sys/net/ipv4/ip_unprivileged_port_start; head -c1 /proc/kcore | wc -c; echo end";
    let restricted = manifest(
        "restricted",
        look,
        "          securityContext:
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
",
        "      securityContext:
        runAsUser: 1000
        runAsGroup: 3000
        runAsNonRoot: true
        supplementalGroups: [4000]
        seccompProfile: {type: RuntimeDefault}
        sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: \"80\"}]
",
    );
    let privileged = manifest("privileged", look, "          securityContext: {privileged: true}\n", "");
    node.apply(&[restricted, privileged, manifest("plain", look, "", "")].concat());

    let restricted = said(&node, "restricted", &["end"]);
    for line in
        ["uid=1000 gid=3000", "4000", "NoNewPrivs:\t1", "Seccomp:\t2", "Read-only file system", "touched=1", "\n80\n"]
    {
        assert!(restricted.contains(line), "{line:?} is not in:\n{restricted}");
    }
    // Whom it is not allowed to, nobody who is not root is given capabilities.
    assert!(restricted.contains("CapEff:\t0000000000000000"), "{restricted}");

    let privileged = said(&node, "privileged", &["end"]);
    for line in ["uid=0(root)", "NoNewPrivs:\t0", "Seccomp:\t0", "touched=0"] {
        assert!(privileged.contains(line), "{line:?} is not in:\n{privileged}");
    }
    let plain = said(&node, "plain", &["end"]);
    // The capabilities that containerd gives to root, and a masked file of the kernel's.
    for line in ["uid=0(root)", "CapEff:\t00000000a80425fb", "NoNewPrivs:\t0", "Seccomp:\t0", "touched=0", "\n0\nend"] {
        assert!(plain.contains(line), "{line:?} is not in:\n{plain}");
    }
}

#[test]
fn what_a_pod_may_not_be_or_do_is_told_and_others_run() {
    let mut node = Node::up("forbidden");
    node.garrison_up();
    let context = |context: &str| format!("      securityContext: {context}\n");
    let manifests = [
        manifest("root", "true", "", &context("{runAsNonRoot: true}")),
        manifest("sysctl", "true", "", &context("{sysctls: [{name: net.core.somaxconn, value: \"1\"}]}")),
        manifest("users", "true", "", "      hostUsers: false\n"),
        manifest("fine", "true", "", &context("{runAsNonRoot: true, runAsUser: 7}")),
    ];
    node.apply(&manifests.concat());
    node.kubectl(&["rollout", "status", "daemonset/fine", "--timeout=90s"]);
    node.sees(&["get", "pods", "-l", "app=root"], &["0/1", "CreateContainerConfigError"]);
    node.sees(
        &["describe", "pods", "-l", "app=root"],
        &["Error: container has runAsNonRoot and image will run as root (pod: \"root-", "container: main)"],
    );
    node.sees(&["get", "pods", "-l", "app=sysctl"], &["0/1", "SysctlForbidden"]);
    node.sees(&["describe", "pods", "-l", "app=sysctl"], &["forbidden sysctl: \"net.core.somaxconn\" not allowlisted"]);
    let handlers = node.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].status.runtimeHandlers}"]);
    if handlers.contains("\"userNamespaces\":true") {
        // Not `eprintln`: what a test that passes prints in that way is not shown.
        let _ = writeln!(io::stderr(), "SKIPPED the refusal of user namespaces: this containerd has them");
    } else {
        node.sees(
            &["describe", "pods", "-l", "app=users"],
            &["FailedCreatePodSandBox", "can't set `spec.hostUsers: false`, runtime does not support user namespaces"],
        );
    }
}

#[test]
fn names_and_resolvers_are_as_the_pod_asks() {
    let mut node = Node::up("names");
    node.write("hosts-line", "");
    node.garrison_up();
    let look = "echo kernel=$(hostname); cat /etc/hosts /etc/resolv.conf; echo end";
    let own = manifest(
        "own",
        look,
        "",
        "      hostname: web
      subdomain: site
      setHostnameAsFQDN: true
      hostAliases: [{ip: 192.0.2.7, hostnames: [alias, alias.example.com]}]
      dnsPolicy: None
      dnsConfig: {nameservers: [192.0.2.53], searches: [corp.example], options: [{name: ndots, value: \"2\"}]}
",
    );
    let host = manifest(
        "host",
        look,
        "",
        "      hostNetwork: true
      hostAliases: [{ip: 192.0.2.7, hostnames: [alias]}]
      dnsConfig: {nameservers: [192.0.2.53, 192.0.2.54, 192.0.2.55]}
",
    );
    node.apply(&(own + &host));
    let own = said(&node, "own", &["end"]);
    for line in [
        "kernel=web.site.default.svc.cluster.local",
        "# Kubernetes-managed hosts file.\n",
        "\tweb.site.default.svc.cluster.local\tweb\n",
        "\n# Entries added by HostAliases.\n192.0.2.7\talias\talias.example.com\n",
        "nameserver 192.0.2.53\n",
        "search corp.example\n",
        "options ndots:2\n",
    ] {
        assert!(own.contains(line), "{line:?} is not in:\n{own}");
    }
    assert!(!own.contains("10.99.0.1"), "the node's own resolver plays no part:\n{own}");
    let host = said(&node, "host", &["end"]);
    for line in [
        "kernel=gt-names",
        "# Kubernetes-managed hosts file (host network).\n",
        "\n# Entries added by HostAliases.\n192.0.2.7\talias\n",
        "nameserver 10.99.0.1\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n",
    ] {
        assert!(host.contains(line), "{line:?} is not in:\n{host}");
    }
    node.sees(
        &["describe", "pods", "-l", "app=host"],
        &["DNSConfigForming", "the applied nameserver line is: 10.99.0.1 192.0.2.53 192.0.2.54"],
    );
}
