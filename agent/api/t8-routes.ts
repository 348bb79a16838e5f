/**
 * The DeviceTriggering API of TS 29.122 (5.7): from a request that has passed
 * its contract (device-triggering.yaml) to a use case, and back to the words of
 * the specification.
 *
 * Invariant: an answer holds what the asking server itself said of its device,
 * and what became of its trigger. There is no way from here to another
 * identifier or an inner address, since `Transaction` has none.
 */
import type { Refusal, RefusalReason, Refuse } from '../core/refusals.ts';
import { type Asker, type DeviceReference, parseExternalId, type TriggerRequest } from '../core/words.ts';
import type { Answer, Api, Call, Operation } from './operation.ts';
import { readPayload } from './payload.ts';

/** A transaction as its server may see it. */
export interface Transaction extends TriggerRequest {
  readonly id: string;
  /** The identifier that the server used, and no other; absent where that is known no more. */
  readonly named?: DeviceReference;
  /** As the specification names it. */
  readonly deliveryResult: string;
}

/** What the API is given. A refusal returned here has been recorded already. */
export interface TriggerUseCases {
  /** `isTested`: a test notification is sent at once. */
  create(who: Asker, ask: TriggerRequest, isTested: boolean): Promise<Transaction | Refusal>;
  /** Those whose trigger is pending; read in slices, as they are asked for. */
  list(who: Asker): AsyncIterable<readonly Transaction[]>;
  /** One of this server. Another server's is `triggerNotFound`, as is one that never was. */
  show(who: Asker, id: string): Transaction | Refusal;
  replace(who: Asker, id: string, ask: TriggerRequest, isTested: boolean): Promise<Transaction | Refusal>;
  /** Ends a transaction; undefined where nothing of it was pending. */
  remove(who: Asker, id: string): Promise<Transaction | undefined | Refusal>;
}

export const T8_BASE_PATH = '/3gpp-device-triggering/v1';

/** `triggers` is absent where this gateway sends none. */
export function t8Api(triggers: TriggerUseCases | undefined, refuse: Refuse): Api {
  return {
    ...{ contract: 'device-triggering.yaml', basePath: T8_BASE_PATH, role: 'server' },
    operations: t8Operations(triggers, refuse),
  };
}

/** Bodies as the contract lets them in. */
interface TriggeringBody {
  readonly externalId?: string;
  readonly msisdn?: string;
  readonly supportedFeatures?: string;
  readonly validityPeriod: number;
  readonly priority: 'PRIORITY' | 'NO_PRIORITY';
  readonly applicationPortId: number;
  readonly appSrcPortId?: number;
  readonly triggerPayload: string;
  readonly notificationDestination: string;
  readonly requestTestNotification?: boolean;
}

type PatchBody = Partial<Omit<TriggeringBody, 'externalId' | 'msisdn' | 'supportedFeatures'>>;

type Act = (call: Call, triggers: TriggerUseCases) => Answer | Refusal | Promise<Answer | Refusal>;

/** The operations by their operationId; the server holds the names against the contract at start. */
export function t8Operations(triggers: TriggerUseCases | undefined, refuse: Refuse): Record<string, Operation> {
  const refused = (call: Call, { reason, ...facts }: Unreadable) => refuse(reason, { ...call.asked(), ...facts });
  /** Of its own name only; before anything else is looked at. */
  const own =
    (act: Act): Operation =>
    (call) => {
      const { scsAsId } = call.params;
      if (scsAsId !== call.who.name)
        return refuse('scsAsIdForeign', {
          ...call.asked(),
          why: `scsAsId is ${JSON.stringify(scsAsId?.slice(0, 64))}`,
        });
      if (!triggers)
        return refuse('triggersUnavailable', { ...call.asked(), why: 'no triggers section in agent.yaml' });
      return act(call, triggers);
    };
  const idOf = ({ params }: Call) => params['transactionId'] ?? '';
  const replace = async (call: Call, triggers: TriggerUseCases, ask: TriggerRequest | Unreadable, isTested = false) => {
    if ('reason' in ask) return refused(call, ask);
    const answer = await triggers.replace(call.who, idOf(call), ask, isTested);
    return 'reason' in answer ? answer : { status: 200, body: bodyOf(answer, call) };
  };
  return {
    createTransaction: own(async (call, triggers) => {
      const body = call.body as TriggeringBody;
      const ask = readAsk(body, call);
      if ('reason' in ask) return refused(call, ask);
      const created = await triggers.create(call.who, ask, isTested(body));
      if ('reason' in created) return created;
      const location = `${collectionOf(call)}/${created.id}`;
      return { status: 201, body: bodyOf(created, call), headers: { location } };
    }),
    listTransactions: own((call, triggers) => ({
      status: 200,
      pieces: arrayOf(triggers.list(call.who), (one) => bodyOf(one, call)),
    })),
    getTransaction: own((call, triggers) => {
      const shown = triggers.show(call.who, idOf(call));
      return 'reason' in shown ? shown : { status: 200, body: bodyOf(shown, call) };
    }),
    replaceTransaction: own((call, triggers) => {
      const body = call.body as TriggeringBody;
      return replace(call, triggers, readAsk(body, call), isTested(body));
    }),
    modifyTransaction: own((call, triggers) => {
      const former = triggers.show(call.who, idOf(call));
      if ('reason' in former) return former;
      const patch = call.body as PatchBody;
      return replace(call, triggers, patched(former, patch, call), patch.requestTestNotification === true);
    }),
    deleteTransaction: own(async (call, triggers) => {
      const removed = await triggers.remove(call.who, idOf(call));
      if (removed === undefined) return { status: 204 };
      return 'reason' in removed ? removed : { status: 200, body: bodyOf(removed, call) };
    }),
  };
}

/** A JSON array, slice by slice: the specification knows no pages, and a server may have many thousands pending. */
async function* arrayOf<Item>(
  slices: AsyncIterable<readonly Item[]>,
  body: (item: Item) => object,
): AsyncGenerator<string> {
  let before = '[';
  for await (const slice of slices) {
    if (slice.length === 0) continue;
    yield before + slice.map((item) => JSON.stringify(body(item))).join();
    before = ',';
  }
  yield before === '[' ? '[]' : ']';
}

/** A body that follows the contract and still cannot be served. */
interface Unreadable {
  readonly reason: RefusalReason;
  readonly why: string;
  readonly detail?: string;
  readonly members?: Readonly<Record<string, string>>;
}

/** From the words of the specification to those of the domain, or why that cannot be. */
function readAsk(body: TriggeringBody, call: Call): TriggerRequest | Unreadable {
  const { externalId, msisdn, supportedFeatures, appSrcPortId } = body;
  if ((externalId === undefined) === (msisdn === undefined))
    return invalid('expected exactly one of externalId and msisdn');
  if (externalId !== undefined && !parseExternalId(externalId))
    return { ...invalid('externalId is not of the form local@domain'), members: { cause: 'INVEXTID' } };
  const payload = readPayload(body.triggerPayload);
  if (!payload) return BAD_PAYLOAD;
  return {
    device: externalId === undefined ? { phoneNumber: msisdn ?? '' } : { networkAccessIdentifier: externalId },
    port: body.applicationPortId,
    ...(appSrcPortId !== undefined && { sourcePort: appSrcPortId }),
    isPriority: body.priority === 'PRIORITY',
    payload,
    validitySeconds: body.validityPeriod,
    ...(supportedFeatures !== undefined && { features: negotiated(supportedFeatures).toString(16) }),
    notification: { destination: body.notificationDestination, collection: collectionOf(call) },
  };
}

/** RFC 7396. */
function patched(former: Transaction, patch: PatchBody, call: Call): TriggerRequest | Unreadable {
  const { id: _, named: __, deliveryResult: ___, ...ask } = former;
  const payload = patch.triggerPayload === undefined ? ask.payload : readPayload(patch.triggerPayload);
  if (!payload) return BAD_PAYLOAD;
  const destination = patch.notificationDestination ?? ask.notification?.destination;
  return {
    ...ask,
    payload,
    ...(patch.validityPeriod !== undefined && { validitySeconds: patch.validityPeriod }),
    ...(patch.priority !== undefined && { isPriority: patch.priority === 'PRIORITY' }),
    ...(patch.applicationPortId !== undefined && { port: patch.applicationPortId }),
    ...(patch.appSrcPortId !== undefined && { sourcePort: patch.appSrcPortId }),
    ...(destination !== undefined && { notification: { destination, collection: collectionOf(call) } }),
  };
}

function invalid(detail: string): Unreadable {
  return { reason: 'invalidArgument', why: detail, detail };
}

const BAD_PAYLOAD: Unreadable = { reason: 'triggerPayloadInvalid', why: 'triggerPayload is not base64' };

/** Notification_test_event (2) and PatchUpdate (3): a bit each, the first is the lowest (TS 29.571 5.2.2). */
const TEST_EVENT = 0b010;
const FEATURES = TEST_EVENT | 0b100;

function negotiated(supportedFeatures: string): number {
  return Number.parseInt(supportedFeatures.at(-1) ?? '0', 16) & FEATURES;
}

function isTested({ requestTestNotification, supportedFeatures = '' }: TriggeringBody): boolean {
  return requestTestNotification === true && (negotiated(supportedFeatures) & TEST_EVENT) !== 0;
}

/** The URI of a server's transactions, as it asked for it: by what it calls the gateway. */
function collectionOf({ who, headers }: Call): string {
  const { host } = headers;
  const path = `${T8_BASE_PATH}/${who.name}/transactions`;
  return typeof host === 'string' && /^[A-Za-z0-9.:[\]-]{1,261}$/.test(host) ? `https://${host}${path}` : path;
}

function namedBy(named: DeviceReference | undefined): Pick<TriggeringBody, 'externalId' | 'msisdn'> {
  if (!named || 'msisdnHash' in named) return {};
  if ('phoneNumber' in named) return { msisdn: named.phoneNumber.replace('+', '') };
  return { externalId: named.networkAccessIdentifier };
}

function bodyOf(transaction: Transaction, call: Call): object {
  const { id, named, features, sourcePort, payload, notification, deliveryResult } = transaction;
  return {
    self: `${collectionOf(call)}/${id}`,
    ...namedBy(named),
    ...(features !== undefined && { supportedFeatures: features }),
    validityPeriod: transaction.validitySeconds,
    priority: transaction.isPriority ? 'PRIORITY' : 'NO_PRIORITY',
    applicationPortId: transaction.port,
    ...(sourcePort !== undefined && { appSrcPortId: sourcePort }),
    triggerPayload: Buffer.from(payload).toString('base64'),
    ...(notification && { notificationDestination: notification.destination }),
    deliveryResult,
  };
}
