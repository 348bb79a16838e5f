/**
 * Bodies for the operations of a contract, as its schemas have them or nearly
 * so: each value may be of any other kind, or left out, or beside one that the
 * contract does not name.
 */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { parse } from 'yaml';

interface Schema {
  readonly $ref?: string;
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly minimum?: number;
  readonly maximum?: number;
}
interface ContractOperation {
  readonly operationId: string;
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
}

/** Texts that mean something in a member of this name. */
export type Meant = Readonly<Record<string, readonly string[]>>;

/** An operation that takes a body. */
interface WithBody {
  readonly path: string;
  readonly method: string;
  readonly operationId: string;
  readonly mediaType: string;
  /** As JSON, or no JSON at all. */
  readonly bodies: fc.Arbitrary<string>;
}

/** The operations of a contract that take a body. */
export function operationsWithBodies(file: string, meant: Meant): readonly WithBody[] {
  const contract = parse(readFileSync(new URL(`../agent/api/${file}`, import.meta.url), 'utf8'));
  const paths = Object.entries<Record<string, ContractOperation>>(contract.paths);
  return paths.flatMap(([path, methods]) =>
    Object.entries(methods).flatMap(([method, { operationId, requestBody }]) => {
      const [[mediaType, content] = []] = Object.entries(requestBody?.content ?? {});
      if (mediaType === undefined || !content) return [];
      const bodies = fc.oneof(
        { arbitrary: near(content.schema).map((value) => JSON.stringify(value)), weight: 6 },
        { arbitrary: fc.json(), weight: 1 },
        { arbitrary: fc.string({ maxLength: 40 }), weight: 1 },
      );
      return [{ path, method: method.toUpperCase(), operationId, mediaType, bodies }];
    }),
  );

  function resolved(schema: Schema): Schema {
    return schema.$ref ? resolved(contract.components.schemas[schema.$ref.split('/').at(-1) ?? '']) : schema;
  }

  function text(name: string): fc.Arbitrary<string> {
    const stray = fc.oneof(
      fc.constantFrom('__proto__', '', 'constructor', ...Object.values(meant).flat()),
      fc.string({ unit: 'binary', maxLength: 80 }),
    );
    const own = meant[name];
    if (!own) return stray;
    return fc.oneof({ arbitrary: fc.constantFrom(...own), weight: 6 }, { arbitrary: stray, weight: 1 });
  }

  function near(of: Schema, name = ''): fc.Arbitrary<unknown> {
    const right = rightly(resolved(of), name);
    return fc.oneof({ arbitrary: right, weight: 20 }, { arbitrary: fc.jsonValue({ maxDepth: 2 }), weight: 1 });
  }

  function rightly(
    { type, enum: values, properties = {}, required = [], items, minimum = 0, maximum = 1e6 }: Schema,
    name: string,
  ) {
    if (values) return fc.constantFrom(...values);
    switch (type) {
      case 'boolean':
        return fc.boolean();
      case 'integer':
        return fc.oneof(
          { arbitrary: fc.integer({ min: minimum, max: maximum }), weight: 9 },
          { arbitrary: fc.double(), weight: 1 },
        );
      case 'array':
        return fc.array(near(items ?? {}, name), { maxLength: 8 });
      case 'object': {
        const members = Object.fromEntries(
          Object.entries(properties).map(([member, of]) => [member, near(of, member)]),
        );
        return fc.oneof(
          { arbitrary: fc.record(members, { requiredKeys: [...required] }), weight: 12 },
          { arbitrary: fc.record(members, { requiredKeys: [] }), weight: 1 },
          { arbitrary: fc.record({ ...members, unknown: fc.jsonValue() }, { requiredKeys: ['unknown'] }), weight: 1 },
        );
      }
      default:
        return text(name);
    }
  }
}
