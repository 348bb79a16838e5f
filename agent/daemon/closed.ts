/**
 * The host, closed, and then the gate in it. The order is that of safety: the
 * pools are blackholes and the base is closed before the gate is attached.
 * Where no gate can be, the base closes all the same.
 */
import { fileURLToPath } from 'node:url';
import { Closure, type GapKind } from '../closure/closure.ts';
import {
  admissions,
  baseSetup,
  type GateNumbers,
  gatePlaces,
  gateSetup,
  mayHaveXdp,
  poolPrefixes,
  siteOf,
} from '../closure/site.ts';
import { wrongSysctls } from '../closure/sysctls.ts';
import type { Config } from '../config.ts';
import { AgentError } from '../core/errors.ts';
import type { Log } from '../core/ports.ts';
import type { RealmName } from '../core/words.ts';
import { Gate } from '../dataplane/gate.ts';
import { host, missingBlackholes, setBlackholes } from '../dataplane/iproute.ts';
import { Base } from '../dataplane/nftables.ts';
import { rangeOf } from '../directory/binding.ts';
import { Directory } from '../directory/directory.ts';
import { lockFolder, systemRandom } from '../host.ts';
import { baseRuleset } from '../policy/ruleset.ts';
import type { Kept } from './kept.ts';
import type { Stop } from './upkeep.ts';

/** @throws AgentError alreadyRunning, interfaceUnsuitable, nftFailed, gateNotLoaded, … */
export async function closeOff(
  config: Config,
  { registry, devices, policies, store }: Kept,
  log: Log,
  gapFound: (kind: GapKind) => void,
  stops: Stop[],
) {
  const { policy } = policies.inForce;
  const site = siteOf(config, await host(mayHaveXdp(config)));
  const unsuitable = site.absent.find(({ code }) => code === 'interfaceUnsuitable'); // waiting would not mend it
  if (unsuitable) throw new AgentError(unsuitable.code, unsuitable.why);
  // Before anything is touched that may be another agent's.
  const noGate = faultOf(() => {
    Gate.prepare(config.gate.bpffs);
    lockFolder(config.gate.bpffs);
  });
  if (noGate instanceof AgentError && noGate.code === 'alreadyRunning') throw noGate;
  await setBlackholes(poolPrefixes(config));
  const base = new Base();
  await registry.replaceFile(devices.map(({ device }) => device));
  const directory = new Directory(registry);
  // Until it is known who holds what, the groups of filters hold all that may.
  const listed = devices.flatMap(({ device, bindings }) =>
    bindings.map(({ realm, address }) => ({ holder: device.externalId, ...rangeOf(realm, address) })),
  );
  const mayBeBound = {
    policy,
    get bound() {
      return [...store.bindings(), ...listed];
    },
    attributesOf: directory.attributesOf,
  };
  await base.apply(baseRuleset(baseSetup(config, site, mayBeBound), await base.counted()));
  if (noGate !== undefined) throw noGate;
  const numbers: GateNumbers = {
    realmId: (realm: RealmName) => store.idOf('realm', realm),
    identificationKey: Buffer.from(systemRandom.bytes(8)).readBigUInt64LE(),
  };
  const gate = Gate.load({
    object: fileURLToPath(new URL('../dataplane/gate.bpf.o', import.meta.url)),
    bpffs: config.gate.bpffs,
    setup: gateSetup(config, site, numbers),
  });
  stops.push(() => gate.close());
  gate.admissions(admissions(config, policy));
  gate.attach(config.gate.attach, gatePlaces(config, site));
  const hosts = { host, missingBlackholes, setBlackholes, wrongSysctls };
  const held = {
    get bound() {
      return directory.bindings();
    },
    attributesOf: directory.attributesOf,
  };
  const closure = new Closure({ config, numbers, gate, base, directory: held, ...hosts, log, gapFound }, site, policy);
  return { directory, gate, closure };
}

function faultOf(work: () => void): unknown {
  try {
    work();
  } catch (fault) {
    return fault;
  }
  return undefined;
}
