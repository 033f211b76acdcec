// A service that registers itself with the gateway, and leaves it without a lost request.
//
//     npm ci
//     CONTROL_PLANE=localhost:7400 SERVICE=orders LISTEN=127.0.0.1:9000 node replica.js

import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const { CONTROL_PLANE = 'localhost:7400', SERVICE = 'orders', LISTEN = '127.0.0.1:9000' } = process.env;
const PASSING = [grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED, grpc.status.RESOURCE_EXHAUSTED];

const protos = fileURLToPath(new URL('../../../proto', import.meta.url));
const definition = loadSync('gateway/v1/registry_service.proto', {
  includeDirs: [protos],
  keepCase: true,
  defaults: true,
  longs: String,
  enums: String,
});
const { RegistryService } = grpc.loadPackageDefinition(definition).gateway.v1;
// With TLS: grpc.credentials.createSsl(ca).
const registry = new RegistryService(CONTROL_PLANE, grpc.credentials.createInsecure());

const call = (method, request, seconds = 5) =>
  promisify(registry[method]).call(registry, request, { deadline: Date.now() + 1000 * seconds });
const jitter = () => sleep(100 + 900 * Math.random());

// Keeps one replica in the registry until it leaves.
class Membership {
  replicaId = '';
  leaseId = '';
  interval = 5000;
  left = false;

  constructor(address) {
    this.address = address;
  }

  identity() {
    return { service: SERVICE, replica_id: this.replicaId, lease_id: this.leaseId };
  }

  // Registers, and reports health once that is true. A control plane that is away is waited for.
  async register() {
    while (!this.left) {
      try {
        const granted = await call('Register', {
          service: SERVICE,
          replica_id: this.replicaId, // empty: the registry chooses one
          endpoint: { address: this.address },
          initial_health: 'HEALTH_STATUS_STARTING',
          lease_ttl: { seconds: 15 },
        });
        this.replicaId = granted.replica.replica_id;
        this.leaseId = granted.lease_id;
        const { seconds, nanos } = granted.heartbeat_interval;
        this.interval = 1000 * Number(seconds) + nanos / 1e6;
        await call('ReportHealth', { ...this.identity(), health: 'HEALTH_STATUS_HEALTHY', reason: 'it listens' });
        console.log(`${SERVICE}/${this.replicaId} registered at ${this.address}`);
        return;
      } catch (error) {
        if (!PASSING.includes(error.code)) throw error;
        await jitter(); // many replicas must not come back together
      }
    }
  }

  // Renews the lease over one stream; opens another when that breaks, and registers anew when the lease is lost.
  async keepAlive() {
    while (!this.left) {
      const reason = await this.renew();
      if (reason === 'LEASE_MISMATCH') {
        console.error("another process has taken this replica's place");
        process.kill(process.pid, 'SIGTERM');
        return;
      }
      await (reason ? this.register() : jitter());
    }
  }

  // Renews on one stream until that breaks, or until the lease is lost: then this says why. A lease has a stream of its
  // own: what is still said of the last one must not be taken for news of the next.
  async renew() {
    const stream = registry.KeepAlive();
    const beat = () => stream.write({ heartbeats: [this.identity()] });
    const beats = setInterval(beat, this.interval);
    beat();
    try {
      for await (const { results } of stream) {
        for (const { lost } of results) if (lost) return lost.reason;
      }
    } catch {
      // Away, or ended: tried again.
    } finally {
      clearInterval(beats);
      stream.on('error', () => {}); // its end by the next line is one
      stream.cancel();
    }
  }

  // Waits until no data plane sends anything more, then leaves the registry.
  async leave() {
    const wait = { seconds: 20 };
    try {
      const drain = { allow_last: true, reason: 'it ends', drain_timeout: wait, wait_timeout: wait };
      await call('DrainReplica', { ...this.identity(), ...drain }, 25);
      this.left = true;
      await call('Deregister', { ...this.identity(), reason: 'it ends' });
    } catch (error) {
      // Without a word from us the lease lapses.
      console.error(`not deregistered: ${error.details ?? error}`);
    }
    this.left = true;
    registry.close();
  }
}

const server = createServer((request, response) => response.end('Hello from Node.js\n'));
const [, host, port] = LISTEN.match(/^(.*):(\d+)$/);
await new Promise((listening) => server.listen(Number(port), host, listening));

const membership = new Membership(`${host}:${server.address().port}`);
let isStopping = false;
for (const name of ['SIGTERM', 'SIGINT']) {
  process.on(name, async () => {
    if (isStopping) return;
    isStopping = true;
    await membership.leave();
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
}
await membership.register();
await membership.keepAlive();
