// A service that registers itself with the gateway, and leaves it without a lost request.
//
//	./generate.sh    # needs protoc
//	CONTROL_PLANE=localhost:7400 SERVICE=orders LISTEN=127.0.0.1:9000 go run .
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	gateway "example.com/replica/gateway/v1"
)

var (
	controlPlane = setting("CONTROL_PLANE", "localhost:7400")
	service      = setting("SERVICE", "orders")
	listen       = setting("LISTEN", "127.0.0.1:9000")
)

func setting(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}

var (
	errLost       = errors.New("the lease is lost")
	errSuperseded = errors.New("another process has taken this replica's place")
)

// membership keeps one replica in the registry until it leaves.
type membership struct {
	registry gateway.RegistryServiceClient
	address  string

	// Guards what registering anew replaces.
	mutex              sync.Mutex
	replicaID, leaseID string
	interval           time.Duration
}

func (m *membership) heartbeat() *gateway.HeartbeatRequest {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return &gateway.HeartbeatRequest{Service: service, ReplicaId: m.replicaID, LeaseId: m.leaseID}
}

// register reports health once that is true. A control plane that is away is waited for.
func (m *membership) register(ctx context.Context) error {
	for {
		err := m.tryToRegister(ctx)
		switch status.Code(err) {
		case codes.OK:
			log.Printf("%s/%s registered at %s", service, m.heartbeat().ReplicaId, m.address)
			return nil
		case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
			if err := pause(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

func (m *membership) tryToRegister(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	granted, err := m.registry.Register(ctx, &gateway.RegisterRequest{
		Service:       service,
		ReplicaId:     m.heartbeat().ReplicaId, // empty: the registry chooses one
		Endpoint:      &gateway.Endpoint{Address: m.address},
		InitialHealth: gateway.HealthStatus_HEALTH_STATUS_STARTING,
		LeaseTtl:      durationpb.New(15 * time.Second),
	})
	if err != nil {
		return err
	}
	m.mutex.Lock()
	m.replicaID, m.leaseID = granted.Replica.ReplicaId, granted.LeaseId
	m.interval = granted.HeartbeatInterval.AsDuration()
	m.mutex.Unlock()
	_, err = m.registry.ReportHealth(ctx, &gateway.ReportHealthRequest{
		Service: service, ReplicaId: granted.Replica.ReplicaId, LeaseId: granted.LeaseId,
		Health: gateway.HealthStatus_HEALTH_STATUS_HEALTHY, Reason: "it listens",
	})
	return err
}

// keepAlive renews the lease over one stream; opens another when that breaks, and registers anew when the lease is lost,
// until the context ends.
func (m *membership) keepAlive(ctx context.Context) error {
	for {
		err := m.renew(ctx)
		switch {
		case errors.Is(err, errSuperseded) || ctx.Err() != nil:
			return err
		case errors.Is(err, errLost):
			err = m.register(ctx)
		default:
			err = pause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// renew renews on one stream until that breaks, or until the lease is lost. A lease has a stream of its own: what is still
// said of the last one must not be taken for news of the next.
func (m *membership) renew(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := m.registry.KeepAlive(ctx)
	if err != nil {
		return err
	}
	go func() {
		beats := time.NewTicker(m.interval)
		defer beats.Stop()
		for stream.Send(&gateway.KeepAliveRequest{Heartbeats: []*gateway.HeartbeatRequest{m.heartbeat()}}) == nil {
			select {
			case <-beats.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, result := range answer.Results {
			lost := result.GetLost()
			if lost == nil {
				continue
			}
			if lost.Reason == "LEASE_MISMATCH" {
				return errSuperseded
			}
			return errLost
		}
	}
}

// leave waits until no data plane sends anything more, then leaves the registry.
func (m *membership) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
	defer cancel()
	who, wait := m.heartbeat(), durationpb.New(20*time.Second)
	_, err := m.registry.DrainReplica(ctx, &gateway.DrainReplicaRequest{
		Service: who.Service, ReplicaId: who.ReplicaId, LeaseId: who.LeaseId,
		AllowLast: true, Reason: "it ends", DrainTimeout: wait, WaitTimeout: wait,
	})
	if err != nil {
		return err
	}
	_, err = m.registry.Deregister(ctx, &gateway.DeregisterRequest{
		Service: who.Service, ReplicaId: who.ReplicaId, LeaseId: who.LeaseId, Reason: "it ends",
	})
	return err
}

// pause has jitter: many replicas must not come back together.
func pause(ctx context.Context) error {
	select {
	case <-time.After(100*time.Millisecond + rand.N(900*time.Millisecond)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func main() {
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	listener, err := net.Listen("tcp", listen)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "Hello from Go\n")
	})}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()

	// With TLS: credentials.NewTLS(&tls.Config{RootCAs: authorities}).
	connection, err := grpc.NewClient(controlPlane, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	m := &membership{registry: gateway.NewRegistryServiceClient(connection), address: listener.Addr().String()}
	if err := m.register(stopped); err != nil {
		log.Fatal(err)
	}
	// Goes on while the replica drains.
	keeping, endKeeping := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.keepAlive(keeping) }()

	select {
	case <-stopped.Done():
		if err := m.leave(); err != nil {
			// Without a word from us the lease lapses.
			fmt.Fprintln(os.Stderr, "not deregistered:", err)
		}
	case err := <-ended:
		fmt.Fprintln(os.Stderr, err)
	}
	endKeeping()
	finishing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(finishing); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
