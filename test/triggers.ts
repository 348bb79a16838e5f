/** Triggers without a network: the real policy, directory and store, and a deliverer in the test's hand. */
import type { InnerAddress, TriggerId } from '../agent/core/words.ts';
import { requestsIn, wakerBy } from '../agent/daemon/wakes.ts';
import type { Delivery, DeliveryOutcome } from '../agent/triggers/delivery.ts';
import type { Notifications } from '../agent/triggers/ground.ts';
import type { TriggerEndCause } from '../agent/triggers/lifecycle.ts';
import { openTriggerStore, type TriggerStore } from '../agent/triggers/store.ts';
import type { Trigger, TriggerAsk } from '../agent/triggers/trigger.ts';
import { Triggers } from '../agent/triggers/triggers.ts';
import { DEVICES, HEAD_END, M1, RULES, TestGateway } from './gateway.ts';
import { IDENTITIES } from './identities.ts';

export const TRIGGER_RULES = `${RULES}
triggers:
  - id: wake
    allow: { servers: [head-end], ports: [5683, 5684] }
    limits: { validitySeconds: 86400, payloadBytes: 64, perMinute: 60, perDevicePerHour: 6, pendingPerDevice: 4, pendingPerServer: 1000 }
`;

/** One that is being delivered, until the test says what became of it. */
interface Delivering {
  readonly inner: InnerAddress;
  readonly port: number;
  readonly sourcePort?: number;
  readonly payload: string;
  readonly signal: AbortSignal;
  done(outcome: DeliveryOutcome): Promise<void>;
}

/** What has come of something in this turn of the loop has come when this resolves. */
export const settled = async () => {
  for (let i = 0; i < 20; i += 1) await new Promise(setImmediate);
};

/** Gives up when it is told to: then nothing was answered. */
class HandDelivery implements Delivery {
  room = 100;
  readonly begun: Delivering[] = [];
  /** Those that are under way. */
  underWay: Delivering[] = [];

  deliver(to: Parameters<Delivery['deliver']>[0], payload: Uint8Array, signal: AbortSignal): Promise<DeliveryOutcome> {
    this.room -= 1;
    return new Promise((resolve) => {
      const finish = (outcome: DeliveryOutcome) => {
        if (!this.underWay.includes(one)) return;
        this.underWay = this.underWay.filter((other) => other !== one);
        this.room += 1;
        resolve(outcome);
      };
      const one: Delivering = {
        ...to,
        payload: Buffer.from(payload).toString(),
        signal,
        done: async (outcome) => {
          finish(outcome);
          await settled();
        },
      };
      signal.addEventListener('abort', () => finish('unanswered'));
      this.begun.push(one);
      this.underWay.push(one);
    });
  }

  /** The one that is under way; there must be no other. */
  get only(): Delivering {
    const [one, ...others] = this.underWay;
    if (!one || others.length > 0) throw new Error(`${this.underWay.length} are under way`);
    return one;
  }
}

export class TestTriggers {
  readonly gateway: TestGateway;
  readonly store: TriggerStore;
  readonly told: { server: string; destination: string; body: object }[] = [];
  readonly notifications: Notifications = {
    allowed: (_, url) => url.startsWith('https://head-end.example/'),
    notify: async (server, destination, body) => void this.told.push({ server, destination, body }),
  };
  readonly ended: TriggerEndCause[] = [];
  /** Realms into which nothing can be sent. */
  readonly notReady = new Set<string>();
  delivery = new HandDelivery();
  triggers!: Triggers;
  #ids = 0;

  constructor(gateway: TestGateway, store = openTriggerStore(':memory:', IDENTITIES)) {
    this.gateway = gateway;
    this.store = store;
  }

  static async started(rules = TRIGGER_RULES, devices = DEVICES, store?: TriggerStore): Promise<TestTriggers> {
    const fixture = new TestTriggers(await TestGateway.started(rules, devices), store);
    await fixture.start();
    return fixture;
  }

  /** What a start of the agent does with triggers, when the grants are there. */
  async start(): Promise<void> {
    const { gateway } = this;
    const { directory, ground, grants } = gateway;
    const { clock, log, refuse, revoked, bootId } = ground;
    this.delivery = new HandDelivery();
    this.triggers = new Triggers({
      ...{ gateway: ground.gateway, bootId, clock, log, refuse, revoked, directory, identities: IDENTITIES },
      store: this.store,
      delivery: this.delivery,
      isServed: (port) => port !== 5684,
      sourcePort: 40_000,
      notifications: this.notifications,
      requests: requestsIn(grants.waiting),
      policy: () => grants.policy,
      tooManyMisses: (who, decision) => grants.judge.tooManyMisses(who, decision),
      notReady: (realm) => (this.notReady.has(realm) ? 'its interface is missing' : undefined),
      newId: () => `trigger-${String(++this.#ids).padStart(6, '0')}` as TriggerId,
      metrics: {
        triggerAccepted: () => {},
        triggerTried: () => {},
        triggerEnded: (cause) => void this.ended.push(cause),
      },
    });
    gateway.followers = this.triggers;
    gateway.waker = wakerBy(this.triggers, { ports: [{ low: 5683, high: 5683 }] });
    await this.triggers.resume();
    await settled();
  }

  /** Accepted, or it is an error. */
  async accepted(changes: Partial<TriggerAsk> & { text?: string } = {}, who = HEAD_END): Promise<Trigger> {
    const answer = await this.triggers.accept(who, triggerAsk(changes));
    if ('reason' in answer) throw new Error(`refused: ${answer.reason} (${answer.why})`);
    await settled();
    return answer;
  }

  /** The reason of the refusal, or it is an error. */
  async refused(changes: Partial<TriggerAsk> & { text?: string } = {}, who = HEAD_END): Promise<string> {
    const answer = await this.triggers.accept(who, triggerAsk(changes));
    if (!('reason' in answer)) throw new Error('accepted');
    return answer.reason;
  }

  async pass(seconds: number): Promise<void> {
    this.gateway.clock.pass(seconds);
    await this.triggers.sweep();
    await settled();
  }
}

export function triggerAsk({ text = 'wake', ...changes }: Partial<TriggerAsk> & { text?: string } = {}): TriggerAsk {
  return {
    device: { networkAccessIdentifier: M1 },
    port: 5683,
    isPriority: false,
    payload: Uint8Array.from(Buffer.from(text)),
    validitySeconds: 3600,
    ...changes,
  };
}
