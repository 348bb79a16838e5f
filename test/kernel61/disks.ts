/**
 * The guest's two disks. The first is Debian 12 with its own kernel, made by
 * mmdebstrap from this machine's apt sources: once, and again when the recipe
 * below changes. Nothing of mtgate is on it, and no run writes to it. The
 * second is what is tested: the repository as it was built, Node, and the
 * site; made anew for each run, in a second or two.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../child.ts';
import { writeSite } from './site.ts';

export const CACHE = `${ROOT}.cache/kernel61`;

const RELEASE = 'bookworm';
/** What the agent and its tests call, beside systemd and the kernel. */
const PACKAGES = [
  ...['linux-image-cloud-amd64', 'kmod', 'systemd-sysv', 'udev'],
  ...['nftables', 'iproute2', 'libbpf1', 'libpcap0.8', 'libstdc++6', 'util-linux', 'curl', 'conntrack'],
];
const LEFT_OUT = ['/usr/share/doc/*', '/usr/share/locale/*', '/usr/share/man/*'];
const SIZE = '1200M';

/** Programs this needs of the machine it runs on, and the Debian packages that bring them. */
const TOOLS: Readonly<Record<string, string>> = {
  '/usr/bin/qemu-system-x86_64': 'qemu-system-x86',
  '/usr/bin/mmdebstrap': 'mmdebstrap',
  '/usr/bin/mksquashfs': 'squashfs-tools',
  '/usr/sbin/mke2fs': 'e2fsprogs',
};

/** Installs what is missing. @throws Error where that needs another user or machine */
export function installTools(): void {
  if (process.arch !== 'x64') throw new Error('the guest is an amd64 machine, and runs the Node of this one');
  if (process.getuid?.() !== 0) throw new Error('needs root, to make a system with files of root');
  const missing = Object.keys(TOOLS).filter((file) => !existsSync(file));
  if (missing.length === 0) return;
  const packages = missing.map((file) => TOOLS[file] ?? '');
  tell(`installing ${packages.join(' ')}`);
  apt('update');
  apt('install', '--yes', '--no-install-recommends', ...packages);
}

export interface System {
  readonly kernel: string;
  readonly disk: string;
}

/** Debian 12. About two minutes where it is not there yet. */
export function debian(): System {
  const recipe = createHash('sha256')
    .update(JSON.stringify([RELEASE, PACKAGES, LEFT_OUT, SIZE]))
    .digest('hex');
  const home = join(CACHE, `debian-${recipe.slice(0, 12)}`);
  const files = (folder: string): System => ({ kernel: join(folder, 'vmlinuz'), disk: join(folder, 'root.ext4') });
  if (existsSync(home)) return files(home);

  tell('building a Debian 12 disk, once: about two minutes');
  rmSync(CACHE, { recursive: true, force: true });
  const building = join(CACHE, 'building');
  const root = join(building, 'root');
  mkdirSync(building, { recursive: true });
  writeFileSync(join(building, 'apt.conf'), aptConfiguration());
  writeFileSync(join(building, 'sources.list'), sources());
  run('mmdebstrap', [
    ...['--quiet', '--variant=minbase', `--include=${PACKAGES.join(',')}`],
    ...LEFT_OUT.map((path) => `--dpkgopt=path-exclude=${path}`),
    ...[`--aptopt=${building}/apt.conf`, RELEASE, root, `${building}/sources.list`],
  ]);
  const kernel = readdirSync(join(root, 'boot')).find((name) => name.startsWith('vmlinuz-'));
  if (!kernel) throw new Error('the Debian that was built has no kernel');
  const made = files(building);
  copyFileSync(join(root, 'boot', kernel), made.kernel);
  rmSync(join(root, 'boot'), { recursive: true });
  run('mke2fs', ['-q', '-t', 'ext4', '-O', '^has_journal', '-d', root, made.disk, SIZE]);
  rmSync(root, { recursive: true });
  renameSync(building, home);
  return files(home);
}

/** What is tested, as a disk. */
export function subject(): string {
  const site = join(CACHE, 'site');
  const disk = join(CACHE, 'subject.squashfs');
  rmSync(site, { recursive: true, force: true });
  rmSync(disk, { force: true });
  writeSite(site);
  const repository = [
    'agent',
    'dist',
    'rules',
    'systemd',
    'test',
    'package.json',
    'package-lock.json',
    'tsconfig.json',
    'LICENSE',
  ];
  const sources = [
    ...repository.map((name) => ROOT + name),
    realpathSync(`${ROOT}node_modules`),
    process.execPath,
    site,
  ];
  run('mksquashfs', [...sources, disk, '-all-root', '-noI', '-noD', '-noF', '-noX', '-no-progress', '-quiet']);
  rmSync(site, { recursive: true });
  return disk;
}

/** This machine's Debian sources of that release, one `deb` line each. */
function sources(): string {
  const format = ['--format', 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)', 'Created-By: Packages', 'Origin: Debian'];
  const list = () =>
    run('apt-get', ['indextargets', ...format])
      .split('\n')
      .filter((line) => line.split(' ')[2]?.startsWith(RELEASE));
  let lines = list();
  if (lines.length === 0) {
    apt('update');
    lines = list();
  }
  if (lines.length === 0) throw new Error(`this machine has no apt source of Debian ${RELEASE}`);
  return `${lines.join('\n')}\n`;
}

/** How this machine reaches them. */
function aptConfiguration(): string {
  const dump = (name: string) => run('apt-config', ['dump', '--no-empty', '--format', '%f "%v";%n', name]);
  return ['Acquire::http', 'Acquire::https', 'Acquire::Check-Valid-Until'].map(dump).join('');
}

function apt(...words: readonly string[]): void {
  run('apt-get', ['-qq', ...words], { DEBIAN_FRONTEND: 'noninteractive' });
}

/** @throws Error; what the command complained of is printed */
function run(command: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): string {
  return execFileSync(command, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  });
}

function tell(text: string): void {
  process.stderr.write(`kernel61: ${text}\n`);
}
