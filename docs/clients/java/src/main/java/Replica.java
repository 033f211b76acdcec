import com.google.protobuf.Duration;
import com.sun.net.httpserver.HttpServer;
import gateway.v1.DeregisterRequest;
import gateway.v1.DrainReplicaRequest;
import gateway.v1.Endpoint;
import gateway.v1.HealthStatus;
import gateway.v1.HeartbeatRequest;
import gateway.v1.KeepAliveRequest;
import gateway.v1.KeepAliveResponse;
import gateway.v1.RegisterRequest;
import gateway.v1.RegisterResponse;
import gateway.v1.RegistryServiceGrpc;
import gateway.v1.ReportHealthRequest;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * A service that registers itself with the gateway, and leaves it without a lost request.
 *
 * <pre>
 * mvn package
 * CONTROL_PLANE=localhost:7400 SERVICE=orders LISTEN=127.0.0.1:9000 java -cp 'target/classes:target/lib/*' Replica
 * </pre>
 */
public final class Replica {
    private static final String SERVICE = setting("SERVICE", "orders");

    private final RegistryServiceGrpc.RegistryServiceBlockingStub registry;
    private final RegistryServiceGrpc.RegistryServiceStub streams;
    private final String address;
    private final CountDownLatch left = new CountDownLatch(1);
    private volatile String replicaId = "";
    private volatile String leaseId = "";
    private volatile long intervalMillis = 5000;

    private Replica(ManagedChannel channel, String address) {
        registry = RegistryServiceGrpc.newBlockingStub(channel);
        streams = RegistryServiceGrpc.newStub(channel);
        this.address = address;
    }

    public static void main(String[] args) throws Exception {
        String listen = setting("LISTEN", "127.0.0.1:9000");
        int colon = listen.lastIndexOf(':');
        String host = listen.substring(0, colon);
        HttpServer server = HttpServer.create(new InetSocketAddress(host, Integer.parseInt(listen.substring(colon + 1))), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            byte[] body = "Hello from Java\n".getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, body.length);
            try (var out = exchange.getResponseBody()) {
                out.write(body);
            }
        });
        server.start();

        // With TLS: TlsChannelCredentials.newBuilder().trustManager(authorities).build().
        ManagedChannel channel =
                Grpc.newChannelBuilder(setting("CONTROL_PLANE", "localhost:7400"), InsecureChannelCredentials.create()).build();
        Replica replica = new Replica(channel, host + ":" + server.getAddress().getPort());
        // SIGTERM and SIGINT run this.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            replica.leave();
            channel.shutdownNow();
            server.stop(1);
        }));
        replica.register();
        replica.keepAlive();
    }

    /** Registers, and reports health once that is true. A control plane that is away is waited for. */
    private void register() throws InterruptedException {
        var request = RegisterRequest.newBuilder()
                .setService(SERVICE)
                .setReplicaId(replicaId) // empty: the registry chooses one
                .setEndpoint(Endpoint.newBuilder().setAddress(address))
                .setInitialHealth(HealthStatus.HEALTH_STATUS_STARTING)
                .setLeaseTtl(Duration.newBuilder().setSeconds(15))
                .build();
        while (left.getCount() > 0) {
            try {
                RegisterResponse granted = within(5).register(request);
                replicaId = granted.getReplica().getReplicaId();
                leaseId = granted.getLeaseId();
                Duration interval = granted.getHeartbeatInterval();
                intervalMillis = 1000 * interval.getSeconds() + interval.getNanos() / 1_000_000;
                within(5).reportHealth(ReportHealthRequest.newBuilder()
                        .setService(SERVICE).setReplicaId(replicaId).setLeaseId(leaseId)
                        .setHealth(HealthStatus.HEALTH_STATUS_HEALTHY).setReason("it listens")
                        .build());
                System.out.println(SERVICE + "/" + replicaId + " registered at " + address);
                return;
            } catch (StatusRuntimeException error) {
                switch (error.getStatus().getCode()) {
                    case UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED -> pause();
                    default -> throw error;
                }
            }
        }
    }

    /** Renews the lease over one stream; opens another when that breaks, and registers anew when the lease is lost. */
    private void keepAlive() throws Exception {
        while (left.getCount() > 0) {
            String reason = renew();
            if (reason.equals("LEASE_MISMATCH")) {
                System.err.println("another process has taken this replica's place");
                System.exit(1);
            } else if (reason.isEmpty()) {
                pause();
            } else {
                register();
            }
        }
    }

    /**
     * Renews on one stream until that breaks, or until the lease is lost: then this says why. A lease has a stream of its
     * own: what is still said of the last one must not be taken for news of the next.
     */
    private String renew() throws Exception {
        var over = new CompletableFuture<String>();
        StreamObserver<KeepAliveRequest> stream = streams.keepAlive(new StreamObserver<>() {
            @Override
            public void onNext(KeepAliveResponse answer) {
                for (var result : answer.getResultsList()) {
                    if (result.hasLost()) {
                        over.complete(result.getLost().getReason());
                    }
                }
            }

            @Override
            public void onError(Throwable error) {
                over.complete("");
            }

            @Override
            public void onCompleted() {
                over.complete("");
            }
        });
        var heartbeat = HeartbeatRequest.newBuilder()
                .setService(SERVICE).setReplicaId(replicaId).setLeaseId(leaseId);
        var request = KeepAliveRequest.newBuilder().addHeartbeats(heartbeat).build();
        while (true) {
            stream.onNext(request);
            try {
                String reason = over.get(intervalMillis, TimeUnit.MILLISECONDS);
                stream.onCompleted();
                return reason;
            } catch (TimeoutException due) {
                // The next heartbeat is.
            }
        }
    }

    /** Waits until no data plane sends anything more, then leaves the registry. */
    private void leave() {
        Duration wait = Duration.newBuilder().setSeconds(20).build();
        try {
            within(25).drainReplica(DrainReplicaRequest.newBuilder()
                    .setService(SERVICE).setReplicaId(replicaId).setLeaseId(leaseId)
                    .setAllowLast(true).setReason("it ends").setDrainTimeout(wait).setWaitTimeout(wait)
                    .build());
            left.countDown();
            within(5).deregister(DeregisterRequest.newBuilder()
                    .setService(SERVICE).setReplicaId(replicaId).setLeaseId(leaseId).setReason("it ends")
                    .build());
        } catch (StatusRuntimeException error) {
            // Without a word from us the lease lapses.
            System.err.println("not deregistered: " + error.getStatus());
        }
        left.countDown();
    }

    private RegistryServiceGrpc.RegistryServiceBlockingStub within(long seconds) {
        return registry.withDeadlineAfter(seconds, TimeUnit.SECONDS);
    }

    /** With jitter: many replicas must not come back together. */
    private void pause() throws InterruptedException {
        left.await(ThreadLocalRandom.current().nextLong(100, 1000), TimeUnit.MILLISECONDS);
    }

    private static String setting(String name, String otherwise) {
        return System.getenv().getOrDefault(name, otherwise);
    }
}
