/**
 * A reload: what may change without a restart is read again. That is the
 * devices, the certificates and revocation lists, the secrets of accounting, and
 * with autoApply the rule files.
 *
 * The order is that of safety. All is read and checked before any of it is put
 * in force, so that a file with an issue changes nothing. Then whom to trust
 * comes first, and the grants that no longer may be end by it; bindings follow,
 * and the policy is last.
 */
import { certificateStatus } from '../api/expiry.ts';
import { readTrust, type Trust } from '../api/tls.ts';
import type { Config } from '../config.ts';
import type { Identities } from '../core/identities.ts';
import type { Address } from '../core/net.ts';
import type { Clock, Log } from '../core/ports.ts';
import type { AccountingListener } from '../directory/listener.ts';
import type { OwnerOf } from '../directory/registry.ts';
import type { RegistryStore } from '../directory/registry-store.ts';
import type { PolicySwitch } from '../editions/policy-switch.ts';
import { loadDevices, loadRadiusClients, loadTls } from '../files/operator-files.ts';
import type { FolderWatch } from '../files/rule-folder.ts';
import type { Bindings } from '../grants/bindings.ts';
import type { Grants } from '../grants/grants.ts';
import { mtcUserOf } from '../policy/policy-index.ts';
import { folderText } from '../use-cases/status.ts';

export interface ReloadParts {
  readonly config: Config;
  readonly policies: PolicySwitch;
  readonly folder: FolderWatch;
  readonly grants: Grants;
  readonly bindings: Bindings;
  readonly identities: Identities;
  readonly registry: RegistryStore;
  /** What an address is of this host's own, if it is. */
  readonly ownUse: (address: Address) => string | undefined;
  /** The accounting server, where there is one. */
  readonly radius: AccountingListener | undefined;
  /** Puts certificates, CAs and revocation lists in force. */
  readonly trusted: (trust: Trust) => void;
  readonly warn: (warning: string) => void;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Reads again, and says what is in force then and what of it is of no use.
 * @throws AgentError rulesInvalid, devicesInvalid, certificateInvalid, secretInvalid; then nothing has changed
 */
export async function readAgain(parts: ReloadParts): Promise<object> {
  const { config, policies, folder, grants, bindings, registry, identities, radius, trusted, warn, clock, log } = parts;
  if (config.rules.autoApply) await policies.propose();
  const ownerOf: OwnerOf = (externalId) => mtcUserOf(grants.policy, externalId)?.name;
  const next = {
    devices: loadDevices(config, { registry, ownerOf, identities, ownUse: parts.ownUse }),
    trust: readTrust(loadTls(config)),
    clients: loadRadiusClients(config, warn),
  };

  trusted(next.trust);
  radius?.reload(next.clients);
  await grants.review();
  await bindings.replaceFile(next.devices);
  if (grants.policy.readsAttributes) await grants.review(); // by what is said of devices now
  const applied = config.rules.autoApply ? await policies.autoApply() : undefined;
  folder.lookAgain();

  const { edition } = policies.inForce;
  const difference = folder.difference(edition.digest);
  const notApplied = applied && 'refused' in applied ? `rule files were not applied: ${applied.why}` : undefined;
  const left = notApplied ?? (difference && folderText(edition.number, difference));
  log.info({ policy: edition.version, edition: edition.number, ...(left && { folder: left }) }, 'reloaded');
  const unusable = certificateStatus(next.trust, clock.nowMs()).filter(({ usable }) => !usable);
  const { size: liveGrants } = grants.live;
  const inForce = { policy: edition.version, edition: edition.number, devices: next.devices.length, liveGrants };
  return { ...inForce, unusable, ...(left && { folder: left }) };
}
