/** Maps names of tensors between the spelling of our graphs and other spellings in files. */
import type { Network } from '../native.js'

/** In a pattern, `^` is the beginning of a name and `*` stands for digits. */
const SPELLINGS: Record<Network['architecture'], [theirs: string, ours: string][]> = {
  unet: [],
  // transformers 5 drops the prefix that every earlier file, and kohya's names, have.
  clip: ['embeddings.', 'encoder.', 'final_layer_norm.'].map((part) => [`^${part}`, `^text_model.${part}`]),
  // Attention as diffusers' first VAE files name it (huggingface/diffusers:src/diffusers/models/modeling_utils.py).
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

/** Returns our spelling of a name in a file. */
export function ourName(architecture: Network['architecture'], name: string): string {
  return SPELLINGS[architecture].reduce((spelled, [theirs, ours]) => respell(spelled, theirs, ours), name)
}

/** Returns the other spelling of our name, or the name itself if there is none. */
export function theirName(architecture: Network['architecture'], name: string): string {
  return SPELLINGS[architecture].reduce((spelled, [theirs, ours]) => respell(spelled, ours, theirs), name)
}
