// Reads {name: LogQL} from standard input and writes {name: place of the first error} for what does not parse.
import { readFileSync } from 'node:fs';
import { parser } from '@grafana/lezer-logql';

const asked = JSON.parse(readFileSync(0, 'utf8'));
const wrong = {};
for (const [name, text] of Object.entries(asked)) {
  parser.parse(text).iterate({
    enter(node) {
      if (node.type.isError && !(name in wrong)) wrong[name] = node.from;
    },
  });
}
console.log(JSON.stringify(wrong));
