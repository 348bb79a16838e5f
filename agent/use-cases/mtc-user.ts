/**
 * What an MTC user can do by its API, and what it may see: its own devices,
 * what reaches them, and the desk. An operator can say the same for it, by the
 * management socket (operator-desk.ts); both come through the desk's clerk.
 */
import type { GrantOnDevice, MtcUserUseCases } from '../api/mtc-user-routes.ts';
import { AgentError } from '../core/errors.ts';
import { orNotRecorded } from '../core/not-recorded.ts';
import type { Refusal, RefusalFacts, Refuse } from '../core/refusals.ts';
import type { ExternalId, MtcUserAsker } from '../core/words.ts';
import type { Author } from '../desk/desk.ts';
import { devicesMatching, type Pattern } from '../directory/owned-devices.ts';
import type { RegistryStore } from '../directory/registry-store.ts';
import type { Grants } from '../grants/grants.ts';
import type { Ground } from '../grants/ground.ts';
import type { GrantRecord } from '../grants/record.ts';
import type { WaitingRequest } from '../grants/waiting-request.ts';
import { fixedStart, matchesDevice } from '../policy/patterns.ts';
import type { MtcUser } from '../policy/policy.ts';
import { mtcUserOf } from '../policy/policy-index.ts';
import { type DeskClerk, GONE, noPreference, preferenceView, type Wrong } from './desk-clerk.ts';
import { STATUS } from './grant-views.ts';
import { DevicePageKeys } from './page-keys.ts';
import { Pages } from './pages.ts';

/** What packets have stopped for may not be on record yet. */
const STOPPED = 'it is in force, and packets have stopped; what that ended will be recorded when that can be done';

export function mtcUserUseCases(
  ground: Ground,
  grants: Grants,
  registry: Pick<RegistryStore, 'domainAfter' | 'ofDomain'>,
  clerk: DeskClerk,
): MtcUserUseCases {
  const pages = new Pages(grants);
  const deviceKeys = new DevicePageKeys();
  const refuserOf = ({ name, correlator, requestAddress }: MtcUserAsker): Refuse => {
    const asked = { mtcUser: name, correlator, from: requestAddress.text };
    return (reason, facts) => ground.refuse(reason, { ...asked, ...facts });
  };
  const told = <Value extends object>(who: MtcUserAsker, value: Value | Wrong | undefined): Value | Refusal => {
    const wrong = value ?? GONE;
    if (!('reason' in wrong)) return value as Value;
    const { reason, ...facts } = wrong as Wrong;
    return refuserOf(who)(reason, facts as RefusalFacts);
  };
  /** Changes the desk; what cannot be kept changes nothing, and may be asked for again. */
  const change = async <Value extends object>(
    who: MtcUserAsker,
    act: (by: Author) => Promise<Value | Wrong>,
  ): Promise<Value | Refusal> => {
    const refuse = refuserOf(who);
    const by = { certificate: who.certificate };
    try {
      return await orNotRecorded(refuse, async () => told(who, await act(by)), STOPPED);
    } catch (fault) {
      if (!(fault instanceof AgentError) || fault.code !== 'deskFailed') throw fault;
      return refuse('recordNotWritten', { why: fault.message, detail: 'nothing has changed' });
    }
  };
  const owned = (record: GrantRecord | WaitingRequest | undefined, who: MtcUserAsker) =>
    record?.mtcUser === who.name ? record : undefined;
  const find = (who: MtcUserAsker, id: string) => owned(grants.find(id), who) ?? owned(grants.waiting.find(id), who);
  const unknown = (who: MtcUserAsker, id: string) =>
    refuserOf(who)('grantNotFound', { why: 'no grant on a device of this MTC user has this id', grant: id });
  return {
    authorisedServers: (who) => told(who, clerk.servers(who.name)),
    setServers: (who, servers, seen) => change(who, (by) => clerk.setServers(who.name, by, servers, seen)),
    authorise: (who, server) => change(who, (by) => clerk.authorise(who.name, by, server)),
    withdraw: (who, server) => change(who, (by) => clerk.withdraw(who.name, by, server)),
    preferences: ({ name }) => clerk.preferences(name).map(preferenceView),
    preference(who, id) {
      const found = clerk.preferences(who.name).find((one) => one.id === id);
      return told(who, found ? preferenceView(found) : noPreference(id));
    },
    prefer: (who, written, id) => change(who, (by) => clerk.prefer(who.name, by, written, id)),
    drop: (who, id) => change(who, async (by) => (await clerk.drop(who.name, by, id)) ?? {}),
    devices({ name }, limit, after) {
      const user = grants.policy.mtcUsers.get(name);
      const from = after === undefined ? undefined : deviceKeys.open(name, after);
      if (after !== undefined && !from) return 'seekUnknown';
      const found = devicesMatching(patternsOf(user), registry, limit, from);
      const items = found.devices.map((device) => ({
        device,
        bound: ground.directory.familiesOf(device).length > 0,
      }));
      return { items, ...(found.last && { lastKey: deviceKeys.seal(name, found.last) }) };
    },
    grants(who, { device }, limit, after) {
      const { name } = who;
      if (device !== undefined && mtcUserOf(grants.policy, device)?.name !== name) return { items: [], total: 0 };
      const of = device === undefined ? { mtcUser: name } : { device: { networkAccessIdentifier: device } };
      // What a former owner's word granted on the device is about to end, and is not the new one's to see.
      const found = pages.read(of, limit, after, (one) => owned(one, who) && grantOnDevice(one));
      if (found === 'seekUnknown') return found;
      const { grants: read, total: all, lastKey } = found;
      const items = read.flatMap((one) => one ?? []);
      const total = all - (read.length - items.length);
      return { items, total, ...(lastKey !== undefined && { lastKey }) };
    },
    grant(who, id) {
      const found = find(who, id);
      return found ? grantOnDevice(found) : unknown(who, id);
    },
    async revoke(who, id) {
      const found = find(who, id);
      if (!found) return unknown(who, id);
      ground.log.info({ grant: id, mtcUser: who.name, correlator: who.correlator }, 'revokeAsked');
      const revoke = async () => {
        await grants.giveUp(found, 'revokedByMtcUser');
        return {};
      };
      return orNotRecorded(refuserOf(who), revoke, STOPPED);
    },
  };
}

function patternsOf(user: MtcUser | undefined): Pattern[] {
  return (user?.devices ?? []).map((pattern) => ({
    start: fixedStart(pattern.local.text),
    domain: pattern.domain,
    subdomains: pattern.subdomains,
    matches: (device) => matchesDevice(pattern, device),
  }));
}

/** As the owner of the device may see it: nothing of where it is reached, nor by which rule. */
function grantOnDevice(record: GrantRecord | WaitingRequest): GrantOnDevice {
  const { id, server, device, protocol, devicePort, endedAtMs, endCause } = record;
  const ended = {
    ...(endedAtMs !== undefined && { endedAtMs }),
    ...(endCause !== undefined && { endCause }),
  };
  const both = { ...{ id, server, device: device as ExternalId, protocol, devicePort }, ...ended };
  if ('waitsUntilMs' in record) {
    const { requestedAtMs, waitsUntilMs, state } = record;
    return { ...both, status: state === 'waiting' ? 'WAITING' : 'ENDED', requestedAtMs, waitsUntilMs };
  }
  const { startedAtMs, expiresAtMs, state } = record;
  return { ...both, status: STATUS[state], startedAtMs, expiresAtMs };
}
