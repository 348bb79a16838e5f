/**
 * The programs that tests start inside a namespace, compiled once for a run:
 * a child then starts in a fifth of the time that it takes through tsx, which
 * compiles what it runs, and a run starts more than a hundred.
 *
 * A run also keeps what was on its networks' outside wires (wire.ts).
 *
 * File by file, as tsc would: a program knows itself by its own file's name.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'vite';
import { COMPILED, ROOT } from './child.ts';
import { keepWires } from './wire.ts';

const PROGRAMS = [
  ...[
    'test/capture.ts',
    'test/coap-device.ts',
    'test/device.ts',
    'test/flood.ts',
    'test/probe.ts',
    'test/session.ts',
    'test/trigger-sender.ts',
  ],
  ...['asker', 'sink', 'source'].map((name) => `test/kernel/crash/${name}.ts`),
];

/** Vitest calls it before the first file of a project that names it; what it returns, after the last. */
export default async function compilePrograms(): Promise<(() => void) | undefined> {
  if (process.env[COMPILED]) return undefined; // for another project of this run
  const cache = join(ROOT, '.cache');
  mkdirSync(cache, { recursive: true });
  for (const name of readdirSync(cache)) {
    const owner = /^programs-(\d+)$/.exec(name)?.[1]; // a run that was killed leaves its own
    if (owner && !existsSync(`/proc/${owner}`)) rmSync(join(cache, name), { recursive: true, force: true });
  }
  const outDir = join(cache, `programs-${process.pid}`);
  await build({
    root: ROOT,
    configFile: false,
    logLevel: 'error',
    build: {
      ssr: true,
      target: 'node20',
      outDir,
      rollupOptions: {
        input: PROGRAMS.map((path) => join(ROOT, path)),
        output: { preserveModules: true, preserveModulesRoot: ROOT, entryFileNames: '[name].js' },
      },
    },
  });
  process.env[COMPILED] = outDir;
  const letGo = keepWires();
  return () => {
    letGo();
    rmSync(outDir, { recursive: true, force: true });
  };
}
