//! Lifecycle hooks over a runtime in memory, and against servers on the loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::agent::hooks;
use crate::podspec::{Handler, Hooks, HttpGet};
use crate::testing::pods;

/// Runs a hook of a container, on a host where nothing ran yet.
async fn run(host: &Host, handler: Handler) -> Result<(), String> {
    let mut pod = pods::pod("web", host.dir.path());
    let mut container = pods::container("main", "image", &[]);
    container.hooks = Hooks { pre_stop: Some(handler), ..Hooks::default() };
    pod.containers.push(container);
    let id = host.instance(&pod, 0).await;
    let handler = pod.containers[0].hooks.pre_stop.as_ref().unwrap();
    hooks::run(&host.shared(), &pod, &id, handler, &["127.0.0.1".parse().unwrap()]).await
}

#[tokio::test(start_paused = true)]
async fn a_sleep_sleeps_and_other_handlers_are_none() {
    let before = tokio::time::Instant::now();
    run(&Host::new(), Handler::Sleep(Duration::from_secs(7))).await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 7);
    let tcp = Handler::Tcp { host: None, port: Ok(1) };
    assert_eq!(run(&Host::new(), tcp).await, Err("Cannot run handler: invalid handler".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_fails_is_told_with_whose_it_was_and_what_it_said() {
    let command = || Handler::Exec(["sh", "-c", "exit 3"].map(str::to_owned).into());
    let whose = "Exec lifecycle hook ([sh -c exit 3]) for Container \"main\" in Pod \"web_default(uid-web)\" failed";
    assert_eq!(run(&Host::new(), command()).await, Ok(()));

    let host = Host::new();
    host.cri.answer_exec(3, "no");
    let expected = format!("{whose} - error: command 'sh -c exit 3' exited with 3: , message: \"no\"");
    assert_eq!(run(&host, command()).await, Err(expected));

    let host = Host::new();
    host.cri.fail_next("ExecSync", tonic::Code::Unknown, "no shim");
    assert_eq!(run(&host, command()).await, Err(format!("{whose} - error: no shim, message: \"\"")));
}

/// A server that says the same to everybody; answers with its port.
async fn server(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while stream.read_buf(&mut request).await.unwrap() > 0 {
                let text = String::from_utf8_lossy(&request);
                assert!(!text.to_lowercase().contains("authorization"), "told in plain text: {text}");
                if request.ends_with(b"\r\n\r\n") || request[0] == 22 {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    break;
                }
            }
        }
    });
    port
}

#[tokio::test]
async fn any_answer_to_a_request_will_do_and_plain_text_is_asked_for_again() {
    let request = |port, https| {
        let headers = vec![("Authorization".to_owned(), "secret".to_owned())];
        let headers = if https { headers } else { Vec::new() };
        Handler::Http(HttpGet { https, host: None, port: Ok(port), path: "/stop".to_owned(), headers })
    };
    let port = server("HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n").await;
    assert_eq!(run(&Host::new(), request(port, false)).await, Ok(()));
    assert_eq!(run(&Host::new(), request(port, true)).await, Ok(()));

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let said = run(&Host::new(), request(closed, false)).await.unwrap_err();
    let expected = format!(
        "HTTP lifecycle hook (/stop) for Container \"main\" in Pod \"web_default(uid-web)\" failed - error: Get \
         \"http://127.0.0.1:{closed}/stop\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
    );
    assert_eq!(said, expected);
}
