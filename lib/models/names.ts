/** The names of a network's tensors: as the graphs here ask for them, and as some files spell them. */
import type { Network } from '../native.js'

/** Pairs of a file's spelling and ours. `^`: the beginning of a name; `*`: digits. */
const SPELLINGS: Record<Network['architecture'], [theirs: string, ours: string][]> = {
  unet: [],
  // transformers 5 drops the prefix that every earlier file, and kohya's names, have.
  clip: ['embeddings.', 'encoder.', 'final_layer_norm.'].map((part) => [`^${part}`, `^text_model.${part}`]),
  // The first VAEs' attention (huggingface/diffusers:src/diffusers/models/modeling_utils.py).
  vae: [
    ['.attentions.*.query.', '.attentions.*.to_q.'],
    ['.attentions.*.key.', '.attentions.*.to_k.'],
    ['.attentions.*.value.', '.attentions.*.to_v.'],
    ['.attentions.*.proj_attn.', '.attentions.*.to_out.0.'],
  ],
}

function respell(name: string, from: string, to: string): string {
  const pattern = from.replaceAll('.', '\\.').replace('*', '(\\d+)')
  return name.replace(new RegExp(pattern), to.replace('^', '').replace('*', '$1'))
}

/** Our name of a file's tensor. */
export function ourName(architecture: Network['architecture'], name: string): string {
  return SPELLINGS[architecture].reduce((spelled, [theirs, ours]) => respell(spelled, theirs, ours), name)
}

/** The other spelling of a tensor that we name `name`: its own where there is no other. */
export function theirName(architecture: Network['architecture'], name: string): string {
  return SPELLINGS[architecture].reduce((spelled, [theirs, ours]) => respell(spelled, ours, theirs), name)
}
