//! etcd, over the gRPC API that its own clients use.
//!
//! The two calls that are needed, with the fields that are needed, from etcd's `rpc.proto`
//! (etcdserverpb, version 3.4); gRPC itself is tonic's.

use anyhow::Context as _;
use futures::future::BoxFuture;
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::load::Client;

/// `etcdserverpb.PutRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// `etcdserverpb.StatusRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StatusRequest {}

/// `etcdserverpb.StatusResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "5")]
    raft_index: u64,
}

/// `etcdserverpb.ResponseHeader`
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// One HTTP/2 connection to one member. Clones share it.
#[derive(Clone)]
pub(crate) struct Connection(Grpc<Channel>);

/// Where a member stands.
pub(crate) struct Standing {
    /// Its own id.
    pub(crate) member: u64,
    /// The leader's id as far as it knows; zero for none.
    pub(crate) leader: u64,
    /// The last entry of its log.
    pub(crate) index: u64,
}

impl Connection {
    /// Connects at the first call, and again after a break.
    pub(crate) fn to(address: std::net::SocketAddr) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        Ok(Self(Grpc::new(endpoint.tcp_nodelay(true).connect_lazy())))
    }

    pub(crate) async fn put(&mut self, key: String, value: String) -> anyhow::Result<()> {
        let request = PutRequest {
            key: key.into_bytes(),
            value: value.into_bytes(),
        };
        let answer: PutResponse = self.call("/etcdserverpb.KV/Put", request).await?;
        answer.header.context("an answer without a header")?;
        Ok(())
    }

    pub(crate) async fn standing(&mut self) -> anyhow::Result<Standing> {
        let path = "/etcdserverpb.Maintenance/Status";
        let answer: StatusResponse = self.call(path, StatusRequest {}).await?;
        let header = answer.header.context("an answer without a header")?;
        Ok(Standing {
            member: header.member_id,
            leader: answer.leader,
            index: answer.raft_index,
        })
    }

    async fn call<A, B>(&mut self, path: &'static str, request: A) -> anyhow::Result<B>
    where
        A: prost::Message + Send + Sync + 'static,
        B: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let codec = ProstCodec::<A, B>::default();
        let path = PathAndQuery::from_static(path);
        let answer = self.0.unary(Request::new(request), path, codec).await?;
        Ok(answer.into_inner())
    }
}

/// A client that overwrites its own key.
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) key: String,
}

impl Client for Writer {
    fn write(&mut self, value: String) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.connection.put(self.key.clone(), value))
    }
}
