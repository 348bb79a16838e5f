/** What the operator can do, and see: all of it. Between the words of the management interface and those of the domain. */
import type { DenialUseCases } from '../api/denial-routes.ts';
import type { DeviceUseCases } from '../api/device-routes.ts';
import type { EditionUseCases } from '../api/edition-routes.ts';
import type { ManagementUseCases } from '../api/management.ts';
import type { NatUseCases } from '../api/nat-routes.ts';
import type { RadiusUseCases } from '../api/radius-routes.ts';
import type { SinkUseCases } from '../api/sink-routes.ts';
import type { TriggerManagement } from '../api/trigger-routes.ts';
import type { UserUseCases } from '../api/user-routes.ts';
import type { Config } from '../config.ts';
import { AgentError } from '../core/errors.ts';
import { type Address, contains } from '../core/net.ts';
import { referenceOf, type ServerName } from '../core/words.ts';
import type { Bindings } from '../grants/bindings.ts';
import type { Grants } from '../grants/grants.ts';
import type { Ground } from '../grants/ground.ts';
import { bindingStep } from '../grants/reach.ts';
import { explain, withStep } from '../policy/explain.ts';
import { mtcUserOf } from '../policy/policy-index.ts';
import { operatorDetail, operatorView, operatorWaitDetail } from './grant-views.ts';
import { Pages } from './pages.ts';
import type { RunningStatus, Status } from './status.ts';

/** What only main knows of the running agent. */
interface Running {
  readonly reload: () => Promise<object>;
  readonly drain: (draining: boolean) => void;
  readonly status: () => RunningStatus;
  /** What an address is of this host's own, if it is. */
  readonly ownUse: (address: Address) => string | undefined;
}

export function managementUseCases(
  ground: Ground,
  grants: Grants,
  bindings: Bindings,
  others: DenialUseCases &
    EditionUseCases &
    DeviceUseCases &
    NatUseCases &
    RadiusUseCases &
    UserUseCases &
    SinkUseCases &
    TriggerManagement,
  config: Config,
  running: Running,
): ManagementUseCases {
  const { log, directory } = ground;
  const pages = new Pages(grants);
  /** Why there is no such inner address; undefined where there is. */
  const stray = (realm: string, address: Address) => {
    const known = config.inside.find((one) => one.realm === realm);
    if (!known) return { refused: 'realmUnknown', why: `no realm ${realm} in agent.yaml` };
    if (known.prefixes.some((prefix) => contains(prefix, address))) return undefined;
    return { refused: 'addressNotInRealm', why: `${address.text} is not in ${realm}` };
  };
  return {
    ...others,
    status: (): Status => ({
      gateway: ground.gateway,
      policy: grants.policy.version,
      liveGrants: grants.live.size,
      heldGrants: grants.live.held,
      waitingGrants: grants.waiting.size,
      restingEndpoints: grants.rest.size,
      freeEndpoints: {
        ipv4Tcp: grants.endpoints.available('ipv4', 'tcp'),
        ipv4Udp: grants.endpoints.available('ipv4', 'udp'),
        ipv6: grants.endpoints.available('ipv6', 'udp'),
      },
      bindings: directory.bindings().length,
      ...running.status(),
    }),
    grants({ device: name, server }, limit, after) {
      const device = name === undefined ? undefined : directory.find(referenceOf(name));
      if (name !== undefined && !device) return { refused: 'deviceUnknown', why: `no device ${name} is registered` };
      if (server !== undefined && !grants.policy.servers.has(server as ServerName))
        return { refused: 'serverUnknown', why: `no server ${server} in the rule files` };
      const of = {
        ...(server !== undefined && { server: server as ServerName }),
        ...(name !== undefined && { device: referenceOf(name) }),
      };
      const found = pages.read(of, limit, after, operatorView);
      if (found === 'seekUnknown')
        return { refused: 'afterUnknown', why: 'the agent was restarted meanwhile: list anew' };
      return found;
    },
    grant(id) {
      const trigger = others.triggers?.ofGrant(id);
      const woken = trigger && { trigger };
      const record = grants.find(id);
      if (record) return { ...operatorDetail(record, ground), ...woken };
      const wait = grants.waiting.find(id);
      return wait && { ...operatorWaitDetail(wait, ground), ...woken };
    },
    async revoke(id, byUid) {
      const record = grants.live.get(id) ?? grants.waiting.get(id);
      if (!record) return false;
      log.info({ grant: id, byUid }, 'revokeAsked');
      await grants.giveUp(record, 'revokedByOperator').catch((cause: Error) => {
        const message = `its packets have stopped, and that it ended is not on record yet (${cause.message})`;
        throw new AgentError('storeFailed', message, { cause });
      });
      return true;
    },
    drain(draining, byUid) {
      log.info({ draining, byUid }, 'drainAsked');
      running.drain(draining);
    },
    device(name) {
      const device = directory.named(name);
      if (!device) return undefined;
      const { externalId } = device;
      const of = { device: { networkAccessIdentifier: externalId } };
      const listed = pages.read(of, SHOWN_OF_DEVICE, undefined, operatorView);
      const mtcUser = mtcUserOf(grants.policy, externalId)?.name;
      const before = ground.store.endedBindings(externalId, HELD_BEFORE).map((one) => ({ ...one, holder: externalId }));
      const held = { bindings: directory.bindingsOf(externalId), before };
      const shown = listed === 'seekUnknown' ? [] : listed.grants;
      const liveGrants = grants.list(of, undefined, 1).total;
      const waitingGrants = grants.listWaiting(of, 0, 0).total;
      return { device, mtcUser, ...held, grants: shown, liveGrants, waitingGrants };
    },
    standsFor(name) {
      const digits = name.replace('+', '');
      if (!/^\d{5,15}$/.test(digits)) return '';
      const [msisdn, imsi] = (['msisdn', 'imsi'] as const).map((kind) => ground.identities.hash(kind, digits));
      return `; log and records have it as ${msisdn} (MSISDN) or ${imsi} (IMSI), unless they are kept in clear`;
    },
    servers: () => [...grants.policy.servers.keys()],
    bindings: () => directory.bindings(),
    async bind(device, realm, address, byUid) {
      log.info({ device, realm, address: address.text, byUid }, 'bindAsked');
      const own = running.ownUse(address);
      if (own !== undefined) return { refused: 'addressOfHost', why: `${own}: no device can hold it` };
      return stray(realm, address) ?? bindings.bind(device, { realm, address });
    },
    async unbind(device, realm, address, byUid) {
      log.info({ device, realm, address: address.text, byUid }, 'unbindAsked');
      const holder = directory.holderOf({ realm, address })?.holder;
      if (holder && holder !== device) return { refused: 'notBound', why: `${address.text} is held by ${holder}` };
      return bindings.unbind({ realm, address });
    },
    async reload(byUid) {
      log.info({ byUid }, 'reloadAsked');
      return running.reload();
    },
    explain({ server, device, protocol, port, durationSeconds, from }) {
      const known = grants.policy.servers.get(server);
      const requestAddress = from ?? known?.apiSources[0]?.address;
      if (!known || !requestAddress) return { refused: 'serverUnknown', why: `no server ${server} in the rule files` };
      const { question, decision } = grants.judge.decide(
        { name: server, requestAddress },
        { device: referenceOf(device), protocol, devicePort: port, durationSeconds },
      );
      const then =
        decision.verdict === 'allow' && question.device
          ? bindingStep(directory, question.device.externalId, decision.family)
          : undefined;
      const { verdict } = withStep(decision, then);
      return { verdict, lines: explain(grants.policy, question, decision, then) };
    },
  };
}

/** How many bindings that are over a look at one device shows. */
const HELD_BEFORE = 20;
/** How many grants a look at one device shows; `mtgate grants list --device` lists all. */
const SHOWN_OF_DEVICE = 100;
