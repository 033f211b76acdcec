//! Explicit routes: over gRPC, over REST, and as data planes are told of them.

use control_plane::store::StoreLocation;
use gateway_proto::v1;
use serde_json::json;
use tonic::{Code, Status};

use crate::{
    discovery::{Node, hello},
    plane::{Plane, explain},
    rest::{get, send, write},
};

fn route(name: &str, service: &str, path_prefix: &str) -> v1::Route {
    v1::Route {
        name: name.into(),
        service: service.into(),
        path_prefix: path_prefix.into(),
        ..Default::default()
    }
}

async fn set(plane: &Plane, route: v1::Route) -> Result<v1::Route, Status> {
    let request = v1::UpdateRouteRequest {
        route: Some(route),
        allow_missing: true,
        author: "ana".into(),
        reason: "new shop".into(),
        ..Default::default()
    };
    Ok(plane.routes().update_route(request).await?.into_inner().route.unwrap())
}

async fn list(plane: &Plane, page_size: i32, page_token: String) -> v1::ListRoutesResponse {
    let request = v1::ListRoutesRequest { page_size, page_token };
    plane.routes().list_routes(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_route_is_set_read_listed_and_removed() {
    let plane = Plane::start().await;
    let first = set(&plane, route("b", "orders", "/b")).await.unwrap();
    assert_eq!((first.updated_by.as_str(), first.update_reason.as_str()), ("ana", "new shop"));
    set(&plane, route("a", "orders", "/a")).await.unwrap();
    let read = plane.routes().get_route(v1::GetRouteRequest { name: "b".into() }).await.unwrap();
    assert_eq!(read.into_inner().route, Some(first));
    let page = list(&plane, 1, String::new()).await;
    assert_eq!((page.routes[0].name.as_str(), page.revision), ("a", 2));
    let next = list(&plane, 1, page.next_page_token).await;
    assert_eq!((next.routes[0].name.as_str(), next.next_page_token.as_str()), ("b", ""));

    let delete = v1::DeleteRouteRequest { name: "b".into(), ..Default::default() };
    assert_eq!(plane.routes().delete_route(delete.clone()).await.unwrap().into_inner().revision, 3);
    let again = plane.routes().delete_route(delete).await.unwrap_err();
    assert_eq!(explain(&again), (Code::NotFound, "ROUTE_NOT_FOUND".into(), String::new()));
    plane.stop().await;
}

#[tokio::test]
async fn what_is_no_route_or_contradicts_another_is_refused_and_nothing_is_stored() {
    let plane = Plane::start().await;
    set(&plane, route("a", "orders", "/a")).await.unwrap();
    let refused = set(&plane, route("b", "Orders", "/a")).await.unwrap_err();
    assert_eq!(explain(&refused), (Code::InvalidArgument, "ROUTE_INVALID".into(), "service".into()));
    let refused = set(&plane, route("b", "users", "/a")).await.unwrap_err();
    assert_eq!(explain(&refused), (Code::AlreadyExists, "ROUTE_CONFLICT".into(), String::new()));
    assert!(refused.message().contains("route a (/a)"), "{}", refused.message());
    let refused = set(&plane, route("", "users", "/b")).await.unwrap_err();
    assert_eq!(explain(&refused), (Code::InvalidArgument, "INVALID_FIELD".into(), "route.name".into()));
    assert_eq!(list(&plane, 0, String::new()).await.routes.len(), 1);
    plane.stop().await;
}

#[tokio::test]
async fn routes_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let location = StoreLocation::Redb(folder.path().join("registry.redb"));
    let plane = Plane::start_with(|config| config.store = location.clone()).await;
    let kept = set(&plane, route("a", "orders", "/a")).await.unwrap();
    plane.stop().await;
    let plane = Plane::start_with(|config| config.store = location).await;
    assert_eq!(list(&plane, 0, String::new()).await.routes, [kept]);
    plane.stop().await;
}

#[tokio::test]
async fn data_planes_are_told_all_routes_and_then_what_changed_whatever_they_follow() {
    let plane = Plane::start().await;
    let stored = set(&plane, route("a", "orders", "/a")).await.unwrap();
    let some = v1::Hello { services: vec!["users".into()], ..hello("n1") };
    let mut node = Node::connect(&plane, some).await;
    let (response, full) = node.full().await;
    let told = |stored: &v1::Route| v1::Route {
        etag: String::new(),
        update_time: None,
        updated_by: String::new(),
        update_reason: String::new(),
        ..stored.clone()
    };
    assert_eq!(full.routes, [told(&stored)]);
    node.ack(&response).await;
    let changed =
        set(&plane, v1::Route { rewrite_prefix: "/".into(), ..route("a", "orders", "/a") }).await.unwrap();
    let (response, delta) = node.delta().await;
    assert_eq!((delta.upsert_routes, delta.remove_routes), (vec![told(&changed)], vec![]));
    node.ack(&response).await;
    let delete = v1::DeleteRouteRequest { name: "a".into(), ..Default::default() };
    plane.routes().delete_route(delete).await.unwrap();
    let (_, delta) = node.delta().await;
    assert_eq!((delta.upsert_routes, delta.remove_routes), (vec![], vec!["a".to_owned()]));
    plane.stop().await;
}

#[tokio::test]
async fn a_route_lives_its_whole_life_over_rest() {
    let plane = Plane::start().await;
    let body =
        json!({"service": "orders", "host": "Shop.example", "pathPrefix": "/api", "rewritePrefix": "/"});
    let made = write(&plane, "PUT", "/v1/routes/shop?reason=new&author=ana", &body).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let read = get(&plane, "/v1/routes/shop").await;
    assert_eq!((&read.json()["host"], &read.json()["updateReason"]), (&json!("shop.example"), &json!("new")));
    let etag = format!("content-type: application/json\nif-match: {}", read.header("etag").unwrap());

    // A patch changes what it names, the service included, and null clears.
    let patch = json!({"service": "users", "rewritePrefix": null});
    let patched = send(&plane, "PATCH", "/v1/routes/shop", &etag, &patch.to_string()).await;
    assert_eq!(patched.status, 200, "{}", patched.body);
    let route = &get(&plane, "/v1/routes/shop").await.json();
    assert_eq!((&route["service"], &route["pathPrefix"]), (&json!("users"), &json!("/api")));
    assert_eq!(route["rewritePrefix"].as_str().unwrap_or_default(), "");
    let stale = send(&plane, "PATCH", "/v1/routes/shop", &etag, &patch.to_string()).await;
    assert_eq!(stale.problem(), (412, "ETAG_MISMATCH".into(), String::new()));

    let dry = write(&plane, "PUT", "/v1/routes/other?dryRun=1", &json!({"service": "orders"})).await;
    assert_eq!(dry.status, 200, "{}", dry.body);
    let alike = json!({"service": "orders", "host": "shop.example", "pathPrefix": "/api"});
    let conflict = write(&plane, "PUT", "/v1/routes/other", &alike).await;
    assert_eq!(conflict.problem(), (409, "ROUTE_CONFLICT".into(), String::new()));
    assert_eq!(get(&plane, "/v1/routes").await.json()["routes"].as_array().unwrap().len(), 1);
    assert_eq!(send(&plane, "DELETE", "/v1/routes/shop", "", "").await.status, 200);
    assert_eq!(get(&plane, "/v1/routes/shop").await.problem().1, "ROUTE_NOT_FOUND");
    plane.stop().await;
}
