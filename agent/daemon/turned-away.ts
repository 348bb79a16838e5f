/** Who was turned away: packets that the inspector's child reads, handshakes and requests, in one ledger. */
import { ownAddressAt, triggeredAt } from '../closure/site.ts';
import type { Config } from '../config.ts';
import type { Log } from '../core/ports.ts';
import { SELF_TEST } from '../core/reasons.ts';
import { type ExternalId, type InnerAddress, referenceOf } from '../core/words.ts';
import type { Gate } from '../dataplane/gate.ts';
import type { Directory } from '../directory/directory.ts';
import type { Grants } from '../grants/grants.ts';
import { sendMarked, systemClock, systemRandom } from '../host.ts';
import { openAccount } from '../inspector/account.ts';
import { openDenialStore } from '../inspector/denial-store.ts';
import { Inspector } from '../inspector/inspector.ts';
import { Ledger } from '../inspector/ledger.ts';
import { packetDenial, type Whose } from '../inspector/packet-denial.ts';
import { WouldHave } from '../inspector/would-have.ts';
import { mtcUserOf } from '../policy/policy-index.ts';
import type { Kept } from './kept.ts';
import type { Stop } from './upkeep.ts';

export type TurnedAway = ReturnType<typeof watchTurnedAway>;

interface Watched {
  readonly config: Config;
  readonly kept: Kept;
  readonly gate: Gate;
  readonly directory: Directory;
  /** Asked when somebody has been turned away, and not before. */
  readonly grants: () => Grants;
  readonly log: Log;
}

/** The ledger takes what is told from now on; packets, once the inspector has been started. */
export function watchTurnedAway({ config, kept, gate, directory, grants, log }: Watched, stops: Stop[]) {
  const denialStore = openDenialStore(kept.file('denials.db'), log, kept.identities);
  stops.push(() => denialStore.close());
  const tenants = {
    holderOf: (inner: InnerAddress) => directory.holderOf(inner),
    mtcUserOf: (device: ExternalId) => mtcUserOf(grants().policy, device)?.name,
  };
  const deviceOf = (named: string) => {
    const device = directory.find(referenceOf(named));
    const mtcUser = device && tenants.mtcUserOf(device.externalId);
    return device && mtcUser && { mtcUser, externalId: device.externalId };
  };
  const ledger = new Ledger(denialStore, systemClock, systemRandom, log, deviceOf);
  const whose: Whose = {
    ownerOf: (protocol, external, from) => grants().ownerOf(protocol, external, from),
    triggeredAt: triggeredAt(config, tenants),
    ownAddressAt: ownAddressAt(config, tenants),
  };
  const wouldHave = new WouldHave(systemClock, log);
  const inspector = new Inspector({
    nflogGroup: config.base.nflogGroup,
    saw: (reason, bytes, filter) => {
      ledger.denials.add(packetDenial(reason, bytes, whose, filter));
    },
    wouldHave: (filter, bytes) => wouldHave.note(filter, bytes),
    sendTest: () => sendMarked(SELF_TEST.mark),
    log,
  });
  const account = openAccount(
    () => gate.counters(),
    () => inspector.reading().received,
  );
  return { ledger, inspector, account, sinceMs: systemClock.nowMs() };
}
