/** The version of this mtgate, from the package.json above the folder it runs from. */
import { readFileSync } from 'node:fs';

export function ownVersion(): string {
  return JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version;
}
