//! Another implementation reads what this one writes, and writes what this one reads.

use std::convert::Infallible;

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::frame::{self, Frame, HEAD, Head, HeadersStart, PREFACE};

/// Fields of requests, some of which come again.
type List = Vec<(String, Vec<u8>)>;

fn any_list() -> impl Strategy<Value = List> {
    let name = prop_oneof![
        prop::sample::select(&["accept", "user-agent", "cookie", "x-one", "x-two", "cache-control"][..])
            .prop_map(str::to_owned),
        "x-[a-z]{1,30}",
    ];
    let value = prop_oneof!["[ab]{1,3}", "[!-~]{1,80}", "\\PC{1,20}"].prop_map(String::into_bytes);
    prop::collection::vec((name, value), 0..10)
}

fn map(list: &List) -> HeaderMap {
    let field = |(name, value): &(String, Vec<u8>)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap())
    };
    list.iter().map(field).collect()
}

/// By name; of one name in their order, as a map keeps no other.
fn sorted(mut list: List) -> List {
    list.sort_by(|one, other| one.0.cmp(&other.0));
    list
}

fn listed(map: &HeaderMap) -> List {
    let list = map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    sorted(list.collect())
}

/// The next frame, whose payload is read, too.
async fn next(from: &mut DuplexStream) -> (Head, Vec<u8>) {
    let mut head = [0; HEAD];
    from.read_exact(&mut head).await.unwrap();
    let head = Head::parse(head);
    head.check(1 << 14).unwrap();
    let mut payload = vec![0; head.length as usize];
    from.read_exact(&mut payload).await.unwrap();
    (head, payload)
}

fn on_one_thread(test: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(1000), ..ProptestConfig::default() })]

    #[test]
    fn differential_another_server_reads_what_is_written(lists in prop::collection::vec(any_list(), 1..6), table in 0..6000_u32) {
        on_one_thread(async {
            let (mut ours, theirs) = tokio::io::duplex(1 << 20);
            ours.write_all(PREFACE).await.unwrap();
            let mut encoder = Encoder::new();
            let mut out = Vec::new();
            frame::write_settings(&mut out, &[]);
            encoder.set_max_table(table);
            for (number, list) in lists.iter().enumerate() {
                let start = HeadersStart::begin(&mut out);
                encoder.begin(&mut out);
                for (known, value) in [(known::METHOD, "GET"), (known::SCHEME, "http"), (known::PATH, "/"), (known::AUTHORITY, "a")] {
                    encoder.field_known(known, value.as_bytes(), Keep::Index, &mut out);
                }
                for (name, value) in list {
                    encoder.field(name.as_bytes(), value, Keep::Index, &mut out);
                }
                start.finish(&mut out, 2 * number as u32 + 1, true, 1 << 14);
            }
            ours.write_all(&out).await.unwrap();
            let mut server = h2::server::handshake(theirs).await.unwrap();
            for list in lists {
                let (request, _) = server.accept().await.unwrap().unwrap();
                prop_assert_eq!(listed(request.headers()), sorted(list));
            }
            Ok(())
        })?;
    }

    #[test]
    fn differential_what_another_client_writes_is_read(lists in prop::collection::vec(any_list(), 1..6)) {
        on_one_thread(async {
            let (mut ours, theirs) = tokio::io::duplex(1 << 20);
            let mut settings = Vec::new();
            frame::write_settings(&mut settings, &[]);
            ours.write_all(&settings).await.unwrap();
            let (mut client, connection) = h2::client::handshake(theirs).await.unwrap();
            let sent = lists.clone();
            let client = async move {
                let mut responses = Vec::new();
                for list in &sent {
                    let mut request = Request::get("http://a/").body(()).unwrap();
                    *request.headers_mut() = map(list);
                    client = client.ready().await.unwrap();
                    responses.push(client.send_request(request, true).unwrap());
                }
                // Until all is read.
                std::future::pending::<Infallible>().await
            };
            let read = async {
                let mut preface = [0; PREFACE.len()];
                ours.read_exact(&mut preface).await.unwrap();
                assert_eq!(preface, PREFACE);
                let mut decoder = Decoder::new(0, usize::MAX);
                let mut lists = lists.iter();
                while lists.len() > 0 {
                    let (head, payload) = next(&mut ours).await;
                    match frame::parse(head, &payload).unwrap() {
                        Frame::Headers { block, is_last: true, is_complete: true, .. } => {
                            let (fields, _) = decoded(&mut decoder, block, NO_LIMITS).unwrap();
                            let (pseudo, fields): (Vec<_>, Vec<_>) = fields.into_iter().partition(|field| field.name[0] == b':');
                            assert!(fields.iter().all(|field| field.is_valid));
                            assert_eq!(pseudo.len(), 4);
                            let fields = fields.into_iter().map(|field| (String::from_utf8(field.name).unwrap(), field.value));
                            prop_assert_eq!(sorted(fields.collect()), sorted(lists.next().unwrap().clone()));
                        }
                        Frame::Settings(payload) => {
                            assert!(frame::settings(payload).all(|setting| setting.is_ok()));
                            let mut out = Vec::new();
                            frame::write_settings_ack(&mut out);
                            ours.write_all(&out).await.unwrap();
                        }
                        Frame::SettingsAck | Frame::WindowUpdate { .. } | Frame::Ping { .. } => {}
                        other => panic!("{other:?} from a client that only asks"),
                    }
                }
                Ok(())
            };
            tokio::select! {
                result = read => result,
                never = client => match never {},
                ended = connection => panic!("the connection has ended: {ended:?}"),
            }
        })?;
    }
}
