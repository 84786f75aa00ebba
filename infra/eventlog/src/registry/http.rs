//! The Confluent REST interface.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use runtime::backoff::Backoff;
use runtime::config::{Check, Problems, Secret, key};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{RegistryError, SchemaRegistry};

const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";
const COMPATIBILITY: &str = "BACKWARD_TRANSITIVE";
/// How long a missing id is not asked for again: it may be registered any moment, but a topic full of records with
/// an unknown id must not become as many requests.
const REMEMBER_MISSING: Duration = Duration::from_secs(5);
/// Attempts of one call before it fails; the caller decides how long to go on.
const ATTEMPTS: u32 = 3;
/// The registry's own code for a schema that it does not have. Any other 404 is of a wrong address or of a proxy.
const NO_SCHEMA: u64 = 40_403;
/// How long after a first "not there" is asked again: the registry may have a replica that is behind.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Missing ids that are asked for twice, at a time: garbage brings any number of them.
const TWICE: usize = 16;

/// How the schema registry is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Base address, e.g. `http://127.0.0.1:8081` or, for Apicurio, `http://127.0.0.1:8080/apis/ccompat/v7`.
    pub url: String,
    /// User for basic authentication.
    pub user: Option<String>,
    /// Password for basic authentication.
    pub password: Option<Secret>,
    /// How long one request may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8081".to_owned(),
            user: None,
            password: None,
            timeout: Duration::from_secs(5),
        }
    }
}

impl Check for RegistryConfig {
    fn check(&self, at: &str, problems: &mut Problems) {
        if reqwest::Url::parse(&self.url).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            return;
        }
        let hint = Some("such as http://127.0.0.1:8081".to_owned());
        problems.add(key(at, "url"), format!("`{}` is not an http address", self.url), hint);
    }
}

struct Request {
    method: Method,
    path: String,
    body: Option<Value>,
}

struct Answer {
    status: StatusCode,
    body: Value,
}

type Job = (Request, SyncSender<Result<Answer, String>>);

/// A registry behind HTTP. Requests run on a thread of its own, so that callers may block on any thread.
pub struct HttpRegistry {
    url: String,
    jobs: SyncSender<Job>,
    found: Mutex<HashMap<u32, Arc<str>>>,
    missing: Mutex<HashMap<u32, Instant>>,
}

impl HttpRegistry {
    /// Makes the client; nothing is asked yet.
    pub fn new(config: &RegistryConfig) -> Result<Self, RegistryError> {
        runtime::tls::install_crypto();
        let refused =
            |reason: String| RegistryError::Refused { request: format!("client for {}", config.url), reason };
        let client =
            reqwest::Client::builder().timeout(config.timeout).build().map_err(|e| refused(causes(&e)))?;
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| refused(error.to_string()))?;
        let (jobs, queue) = sync_channel(16);
        let url = config.url.trim_end_matches('/').to_owned();
        let server =
            Server { client, url: url.clone(), user: config.user.clone(), password: config.password.clone() };
        std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || tokio.block_on(server.serve(queue)))
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self { url, jobs, found: Mutex::default(), missing: Mutex::default() })
    }

    /// Asks, and asks again when the registry is away or in trouble.
    fn ask(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, RegistryError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            let reason = match self.ask_once(method, path, body) {
                Ok(answer) if !is_transient(answer.status) => return Ok(answer),
                Ok(answer) => format!("{} {}", answer.status, text_of(&answer.body)),
                Err(reason) => reason,
            };
            let delay = backoff.next_delay();
            if backoff.attempts() >= ATTEMPTS {
                return Err(RegistryError::Unavailable { url: self.url.clone(), reason });
            }
            std::thread::sleep(delay);
        }
    }

    fn ask_once(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        let (reply, answer) = sync_channel(1);
        let request = Request { method: method.clone(), path: path.to_owned(), body: body.cloned() };
        self.jobs.send((request, reply)).map_err(|_| "its thread has ended".to_owned())?;
        answer.recv().unwrap_or_else(|_| Err("its thread has ended".to_owned()))
    }

    fn expect(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value, RegistryError> {
        let answer = self.ask(method, path, body)?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        Err(refused(method, path, &answer))
    }

    fn set_compatibility(&self, subject: &str) -> Result<bool, RegistryError> {
        let path = format!("/config/{subject}");
        let body = json!({ "compatibility": COMPATIBILITY });
        let answer = self.ask(&Method::PUT, &path, Some(&body))?;
        match answer.status {
            // Some registries know no configuration of a subject that has no version yet.
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            // Another process made the same rule between the registry's look and its insert: ask again.
            StatusCode::CONFLICT => Err(RegistryError::Unavailable {
                url: self.url.clone(),
                reason: format!("{subject} is being configured by another process"),
            }),
            _ => Err(refused(&Method::PUT, &path, &answer)),
        }
    }
}

impl SchemaRegistry for HttpRegistry {
    fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let is_set = self.set_compatibility(subject)?;
        let path = format!("/subjects/{subject}/versions");
        let answer = self.ask(&Method::POST, &path, Some(&json!({ "schema": schema })))?;
        if answer.status == StatusCode::CONFLICT {
            return Err(RegistryError::Incompatible {
                subject: subject.to_owned(),
                reason: text_of(&answer.body),
            });
        }
        let id = answer.body.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let Some(id) = id.filter(|_| answer.status.is_success()) else {
            return Err(refused(&Method::POST, &path, &answer));
        };
        if !is_set && !self.set_compatibility(subject)? {
            let reason = "it has no configuration for a subject just registered".to_owned();
            return Err(RegistryError::Refused { request: format!("PUT /config/{subject}"), reason });
        }
        Ok(id)
    }

    fn schema(&self, id: u32) -> Result<Arc<str>, RegistryError> {
        if let Some(schema) = self.found.lock().get(&id) {
            return Ok(Arc::clone(schema));
        }
        if self.missing.lock().get(&id).is_some_and(|since| since.elapsed() < REMEMBER_MISSING) {
            return Err(RegistryError::NotFound { id });
        }
        let path = format!("/schemas/ids/{id}");
        let mut answer = self.ask(&Method::GET, &path, None)?;
        if is_missing(&answer) && self.missing.lock().len() < TWICE {
            std::thread::sleep(ASK_AGAIN);
            answer = self.ask(&Method::GET, &path, None)?;
        }
        if is_missing(&answer) {
            self.remember_missing(id);
            return Err(RegistryError::NotFound { id });
        }
        if answer.status == StatusCode::NOT_FOUND {
            return Err(RegistryError::Unavailable {
                url: self.url.clone(),
                reason: format!("GET {path}: 404, and not as a registry says it: {}", text_of(&answer.body)),
            });
        }
        let Some(schema) =
            answer.body.get("schema").and_then(Value::as_str).filter(|_| answer.status.is_success())
        else {
            return Err(refused(&Method::GET, &path, &answer));
        };
        let schema: Arc<str> = Arc::from(schema);
        self.found.lock().insert(id, Arc::clone(&schema));
        Ok(schema)
    }
}

impl HttpRegistry {
    /// Whatever ids garbage brings, the memory of them stays small.
    fn remember_missing(&self, id: u32) {
        let mut missing = self.missing.lock();
        if missing.len() >= TWICE {
            missing.retain(|_, since| since.elapsed() < REMEMBER_MISSING);
        }
        if missing.len() < 1000 {
            missing.insert(id, Instant::now());
        }
    }

    /// The compatibility of a subject as the registry has it; for tests and `check --connect`.
    pub fn compatibility(&self, subject: &str) -> Result<String, RegistryError> {
        let body = self.expect(&Method::GET, &format!("/config/{subject}"), None)?;
        let level = body.get("compatibilityLevel").or_else(|| body.get("compatibility"));
        Ok(level.and_then(Value::as_str).unwrap_or_default().to_owned())
    }
}

struct Server {
    client: reqwest::Client,
    url: String,
    user: Option<String>,
    password: Option<Secret>,
}

impl Server {
    /// One request at a time: schemas are fetched once each.
    async fn serve(self, queue: Receiver<Job>) {
        while let Ok((request, reply)) = queue.recv() {
            let answer = self.send(request).await;
            // Whoever asked may have gone.
            let _ = reply.send(answer);
        }
    }

    async fn send(&self, request: Request) -> Result<Answer, String> {
        let mut http = self.client.request(request.method, format!("{}{}", self.url, request.path));
        if let Some(user) = &self.user {
            http = http.basic_auth(user, self.password.as_ref().map(Secret::expose));
        }
        if let Some(body) = request.body {
            http = http.header("Content-Type", CONTENT_TYPE).body(body.to_string());
        }
        let response = http.send().await.map_err(|error| causes(&error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| causes(&error))?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, body })
    }
}

fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

fn is_missing(answer: &Answer) -> bool {
    answer.status == StatusCode::NOT_FOUND
        && answer.body.get("error_code").and_then(Value::as_u64) == Some(NO_SCHEMA)
}

fn refused(method: &Method, path: &str, answer: &Answer) -> RegistryError {
    RegistryError::Refused {
        request: format!("{method} {path}"),
        reason: format!("{} {}", answer.status, text_of(&answer.body)),
    }
}

/// The registry's own message, bounded: an error page must not fill the log.
fn text_of(body: &Value) -> String {
    let text = body.get("message").and_then(Value::as_str).map_or_else(|| body.to_string(), str::to_owned);
    text.chars().take(500).collect()
}

/// reqwest names only the outermost cause; "connection refused" is further in.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers each connection with the next of these, and tells what was asked.
    fn server(answers: Vec<(u16, &'static str)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = vec![0; 65536];
                let length = stream.read(&mut buffer).unwrap();
                let head = String::from_utf8_lossy(&buffer[..length]).into_owned();
                asked.push(head.lines().next().unwrap().replace(" HTTP/1.1", ""));
                let answer = format!(
                    "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
            asked
        });
        (url, served)
    }

    fn registry(url: String) -> HttpRegistry {
        HttpRegistry::new(&RegistryConfig { url, ..RegistryConfig::default() }).unwrap()
    }

    #[test]
    fn found_is_remembered_for_ever_and_missing_for_a_moment() {
        let (url, served) = server(vec![
            (200, r#"{"schema":"\"string\""}"#),
            (404, r#"{"error_code":40403,"message":"no"}"#),
            (404, r#"{"error_code":40403,"message":"no"}"#),
        ]);
        let registry = registry(url);
        assert_eq!(&*registry.schema(7).unwrap(), "\"string\"");
        assert_eq!(&*registry.schema(7).unwrap(), "\"string\"");
        assert_eq!(registry.schema(8), Err(RegistryError::NotFound { id: 8 }));
        assert_eq!(registry.schema(8), Err(RegistryError::NotFound { id: 8 }));
        assert_eq!(
            served.join().unwrap(),
            ["GET /schemas/ids/7", "GET /schemas/ids/8", "GET /schemas/ids/8"]
        );
    }

    #[test]
    fn only_the_registry_itself_says_that_a_schema_is_missing_and_says_it_twice() {
        let (url, served) = server(vec![
            (404, "<html>no such page</html>"),
            (404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#),
            (404, r#"{"error_code":40403,"message":"no"}"#),
            (200, r#"{"schema":"\"int\""}"#),
        ]);
        let registry = registry(url);
        for _ in 0..2 {
            let error = registry.schema(8).unwrap_err();
            assert_eq!(error.fate(), runtime::fate::Fate::Transient, "{error}");
        }
        assert_eq!(&*registry.schema(8).unwrap(), "\"int\"");
        assert_eq!(served.join().unwrap().len(), 4);
    }

    #[test]
    fn trouble_is_not_absence() {
        let (url, served) = server(vec![(500, "oops"), (503, "{}"), (200, r#"{"schema":"\"int\""}"#)]);
        let up_again = registry(url);
        assert_eq!(&*up_again.schema(1).unwrap(), "\"int\"");
        served.join().unwrap();
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = registry(format!("http://{nobody}")).schema(1).unwrap_err();
        assert_eq!(error.fate(), runtime::fate::Fate::Transient);
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[test]
    fn compatibility_is_set_and_conflicts_are_named() {
        let (url, served) = server(vec![
            (404, "{}"),
            (200, r#"{"id":42}"#),
            (200, "{}"),
            (200, "{}"),
            (409, r#"{"message":"READER_FIELD_MISSING_DEFAULT_VALUE"}"#),
            (401, "who are you"),
        ]);
        let registry = registry(url);
        assert_eq!(registry.register("varta.Clock", "{}"), Ok(42));
        let error = registry.register("varta.Clock", "{}").unwrap_err();
        assert!(
            matches!(&error, RegistryError::Incompatible { .. })
                && error.to_string().contains("READER_FIELD")
        );
        let error = registry.register("varta.Clock", "{}").unwrap_err();
        assert_eq!(error.fate(), runtime::fate::Fate::Fatal);
        let asked = served.join().unwrap();
        assert_eq!(
            asked[..3],
            ["PUT /config/varta.Clock", "POST /subjects/varta.Clock/versions", "PUT /config/varta.Clock"]
        );
    }

    #[tokio::test]
    async fn may_be_called_from_within_tokio() {
        let (url, served) = server(vec![(200, r#"{"schema":"\"string\""}"#)]);
        assert_eq!(&*registry(url).schema(7).unwrap(), "\"string\"");
        served.join().unwrap();
    }
}
