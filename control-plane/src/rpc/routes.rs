//! `gateway.v1.RouteService`: explicit routes.

use std::sync::Arc;

use gateway_proto::{
    Check, Invalid, RouteName,
    v1::{self, route_service_server::RouteService},
};
use tonic::{Request, Response, Status};

use super::{asked, page::Page};
use crate::{
    auth::Caller,
    edge::Edge,
    refusal::Refusal,
    registry::{Answer, Command, RegistryError, RouteWish},
};

/// The service.
#[derive(Debug)]
pub(super) struct Routes(pub(super) Arc<Edge>);

#[tonic::async_trait]
impl RouteService for Routes {
    async fn get_route(
        &self,
        request: Request<v1::GetRouteRequest>,
    ) -> Result<Response<v1::GetRouteResponse>, Status> {
        let name = RouteName::parse(&request.get_ref().name).map_err(Refusal::from)?;
        let stored = self.0.effects.publisher.read(|view| view.route(&name).cloned());
        let stored = stored.ok_or_else(|| Refusal::from(RegistryError::RouteNotFound(name)))?;
        Ok(Response::new(v1::GetRouteResponse { route: Some(stored.to_wire()) }))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, &["routes"])?;
        let (stored, next_page_token, revision) = self.0.effects.publisher.read(|view| {
            let after = page.after().unwrap_or_default();
            let (stored, token) =
                page.cut(view.routes_after(after).cloned(), |stored| stored.route.name.to_string());
            (stored, token, view.revision())
        });
        let routes = stored.iter().map(|stored| stored.to_wire()).collect();
        Ok(Response::new(v1::ListRoutesResponse { routes, next_page_token, revision }))
    }

    async fn update_route(
        &self,
        request: Request<v1::UpdateRouteRequest>,
    ) -> Result<Response<v1::UpdateRouteResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let request = request.into_inner();
        let validate_only = request.validate_only;
        let mut check = Check::default();
        let change = check.take(request.route.ok_or_else(|| Invalid::new("route", "is required")));
        let name = change.as_ref().map(|route| RouteName::parse(&route.name));
        let name = name.and_then(|name| check.take(name.map_err(|invalid| invalid.within("route"))));
        let said = check.take(asked::said(&request.author, &request.reason, &caller));
        let wait = check.take(asked::wait(request.wait_timeout));
        check.finish().map_err(Refusal::from)?;
        let (Some(change), Some(name), Some(said), Some(wait)) = (change, name, said, wait) else {
            unreachable!("nothing was refused")
        };
        let wish = RouteWish {
            name,
            change,
            mask: request.update_mask,
            etag: request.etag,
            allow_missing: request.allow_missing,
            said,
        };
        let answer = self.0.submit(&caller, Command::UpdateRoute(Box::new(wish)), validate_only).await?;
        let Answer::Route(stored) = answer else { unreachable!("a route's change is answered as such") };
        let rollout = match validate_only {
            true => None,
            false => Some(self.0.rollout(stored.revision, wait).await),
        };
        Ok(Response::new(v1::UpdateRouteResponse { route: Some(stored.to_wire()), rollout }))
    }

    async fn delete_route(
        &self,
        request: Request<v1::DeleteRouteRequest>,
    ) -> Result<Response<v1::DeleteRouteResponse>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        let request = request.into_inner();
        let mut check = Check::default();
        let name = check.take(RouteName::parse(&request.name));
        let said = check.take(asked::said(&request.author, &request.reason, &caller));
        check.finish().map_err(Refusal::from)?;
        let (Some(name), Some(said)) = (name, said) else { unreachable!("nothing was refused") };
        let command = Command::DeleteRoute { name, etag: request.etag, said };
        match self.0.submit(&caller, command, false).await? {
            Answer::RouteDeleted(revision) => Ok(Response::new(v1::DeleteRouteResponse { revision })),
            other => unreachable!("a route's removal is answered as such, not by {other:?}"),
        }
    }
}
