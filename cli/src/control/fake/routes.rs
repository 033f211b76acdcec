//! Explicit routes in the scripted control plane: kept and changed as the contract says.

use gateway_proto::{
    Route, reason, route,
    v1::{self, route_service_server::RouteService},
};
use tonic::{Code, Request, Response, Status};

use super::{Fake, not_scripted, refusal};

fn none_stored() -> Status {
    refusal(Code::NotFound, reason::ROUTE_NOT_FOUND, "there is no such route")
}

#[tonic::async_trait]
impl RouteService for Fake {
    async fn get_route(
        &self,
        request: Request<v1::GetRouteRequest>,
    ) -> Result<Response<v1::GetRouteResponse>, Status> {
        let stored = self.with(|script| script.routes.get(&request.get_ref().name).cloned());
        Ok(Response::new(v1::GetRouteResponse { route: Some(stored.ok_or_else(none_stored)?) }))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        if !request.get_ref().page_token.is_empty() {
            return Err(not_scripted());
        }
        let routes = self.with(|script| script.routes.values().cloned().collect());
        Ok(Response::new(v1::ListRoutesResponse { routes, ..Default::default() }))
    }

    async fn update_route(
        &self,
        request: Request<v1::UpdateRouteRequest>,
    ) -> Result<Response<v1::UpdateRouteResponse>, Status> {
        let request = request.into_inner();
        let change = request.route.clone().unwrap_or_default();
        self.with(|script| {
            let before = script.routes.get(&change.name).cloned().unwrap_or_default();
            let after = route::updated(&before, &change, request.update_mask.as_ref());
            let after = after.and_then(|after| Route::parse(&after)).map_err(|invalid| {
                refusal(Code::InvalidArgument, reason::ROUTE_INVALID, &invalid.to_string())
            })?;
            let route = v1::Route { revision: 7, ..after.to_wire() };
            if !request.validate_only {
                script.routes.insert(change.name.clone(), route.clone());
            }
            script.routed.push(request);
            let rollout = Some(script.rollout.clone());
            Ok(Response::new(v1::UpdateRouteResponse { route: Some(route), rollout }))
        })
    }

    async fn delete_route(
        &self,
        request: Request<v1::DeleteRouteRequest>,
    ) -> Result<Response<v1::DeleteRouteResponse>, Status> {
        self.with(|script| {
            script.routes.remove(&request.get_ref().name).ok_or_else(none_stored)?;
            Ok(Response::new(v1::DeleteRouteResponse { revision: 8 }))
        })
    }
}
