/**
 * What the agent keeps on disk, opened before anything of the host is touched:
 * whose devices there are, what MTC users said, which policy is in force, the
 * grants. What cannot be opened ends the start: nothing is decided from half.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { ownUse } from '../closure/site.ts';
import type { Config } from '../config.ts';
import { type Log, monotonicMs } from '../core/ports.ts';
import { links } from '../dataplane/iproute.ts';
import { openDesk } from '../desk/desk-store.ts';
import { DeskSwitch } from '../desk/desk-switch.ts';
import { openRegistry } from '../directory/registry-store.ts';
import { openEditions } from '../editions/edition-store.ts';
import { PolicySwitch } from '../editions/policy-switch.ts';
import { identitiesBy } from '../files/identity-key.ts';
import { compileRulesApart, digest, loadDevices, loadIdentityKey } from '../files/operator-files.ts';
import { keepingLast } from '../files/policy-compiler.ts';
import { FolderWatch, readRuleFolder } from '../files/rule-folder.ts';
import { openStore } from '../grants/store.ts';
import { lockFolder, systemClock } from '../host.ts';
import { DeviceImports } from '../use-cases/device-imports.ts';
import type { Stop } from './upkeep.ts';

export type Kept = Awaited<ReturnType<typeof openKept>>;

/** @throws AgentError alreadyRunning, or of the file that cannot be used */
export async function openKept(config: Config, log: Log, warn: (warning: string) => void, stops: Stop[]) {
  const { directory } = config.store;
  mkdirSync(directory, { recursive: true, mode: 0o750 });
  lockFolder(directory);
  const identityKey = loadIdentityKey(config);
  const identities = identitiesBy(identityKey);
  const registry = openRegistry(join(directory, 'registry.db'), identities);
  stops.push(() => registry.close());
  const present = await links();
  const devices = loadDevices(config, { registry, identities, ownUse: (address) => ownUse(config, present, address) });
  const importWorker = new URL('../use-cases/device-import-worker.js', import.meta.url);
  const imports = new DeviceImports(registry, directory, importWorker, identityKey);
  const editions = openEditions(join(directory, 'editions.db'));
  stops.push(() => editions.close());
  const deskStore = openDesk(join(directory, 'desk.db'));
  stops.push(() => deskStore.close());
  const desk = new DeskSwitch({ store: deskStore, digest, log });
  const policyWorker = new URL('../files/policy-worker.js', import.meta.url);
  const compile = keepingLast(async (files, where) => {
    const checked = await compileRulesApart(files, where, config, policyWorker);
    for (const warning of checked.warnings) warn(warning);
    return checked;
  });
  const policies = await PolicySwitch.begin({
    store: editions,
    readFolder: () => readRuleFolder(config.rules),
    compile: (files, edition) => compile(files, edition === undefined ? config.rules.folder : `edition-${edition}`),
    autoApply: config.rules.autoApply,
    clock: systemClock,
    log,
  });
  const folder = new FolderWatch(config.rules, () => monotonicMs(systemClock));
  const worker = new URL('../grants/store-worker.js', import.meta.url);
  const store = openStore(join(directory, 'mtgate.db'), identities, worker);
  stops.push(() => store.close());
  /** The file of one of the databases that are opened later. */
  const file = (name: string) => join(directory, name);
  return { identities, registry, devices, imports, deskStore, desk, policies, folder, store, file };
}
