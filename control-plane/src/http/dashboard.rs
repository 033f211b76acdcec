//! The dashboard: a page, one stream that keeps it current, and what it knows of settings. Everything that the page
//! changes goes through `/v1`, as everybody's changes do.
//!
//! ```text
//!  assets (in the binary) ─▶ the browser ◀─ feed ◀─ the watches and lists of /v1
//!                                 │
//!                                 └──▶ writes (may pages change anything?) ─▶ /v1
//! ```

mod assets;
mod cursor;
mod feed;
mod frame;
mod rows;
mod settings;
pub(super) mod writes;

use axum::{Router, routing::get};

use super::resources::Resources;

/// The page and all it needs.
pub(super) fn router(resources: Resources) -> Router {
    let lab = resources.edge.lab.clone();
    let router = Router::new()
        .route("/", get(assets::page))
        .route("/ui", get(assets::page))
        .route("/ui/", get(assets::page))
        .route("/ui/settings.json", get(settings::serve))
        .route("/ui/{name}", get(assets::serve))
        .route("/ui/stream", get(feed::serve).with_state(resources));
    match lab {
        Some(lab) => router.nest("/ui/lab", lab),
        None => router,
    }
}
