# Completion of swarmctl for bash (3.2 and newer).
# Made by `python -m tools.completions` from the command tree of swarmctl; do not edit.
#
# This script starts no process and never evaluates file names: names come from globbing and are quoted before they are
# offered. The helpers read and set local variables of _swarmctl:
#   path      the commands typed so far         position  number of arguments before the cursor
#   typed     the word at the cursor, unquoted  quote     the quote that the word begins with, if any
#   before    the part of the word before the value (--option=, KEY=)
#   cut       how much of the word readline keeps, because for readline words also end at =, : and @
#   kind      the kind of value expected here   list      the candidates if they are fixed

# Enter the command $1 if it exists.
__swarmctl_enter() {
    case "$path:$1" in
        ':init') path='init' ;;
        ':run') path='run' ;;
        ':attach') path='attach' ;;
        ':doctor') path='doctor' ;;
        ':backup') path='backup' ;;
        ':restore') path='restore' ;;
        ':upgrade') path='upgrade' ;;
        ':quarantine') path='quarantine' ;;
        ':status' | ':ps') path='status' ;;
        ':stop') path='stop' ;;
        ':restart') path='restart' ;;
        ':rename') path='rename' ;;
        ':fork') path='fork' ;;
        ':rm') path='rm' ;;
        ':logs') path='logs' ;;
        ':report') path='report' ;;
        ':models') path='models' ;;
        ':sample') path='sample' ;;
        ':chat') path='chat' ;;
        ':eval') path='eval' ;;
        ':export') path='export' ;;
        ':replay') path='replay' ;;
        ':launch') path='launch' ;;
        ':profiles' | ':profile') path='profiles' ;;
        ':keys' | ':key') path='keys' ;;
        ':tasks') path='tasks' ;;
        ':rollouts') path='rollouts' ;;
        ':swarm') path='swarm' ;;
        ':identity') path='identity' ;;
        ':service') path='service' ;;
        ':completion') path='completion' ;;
        'profiles:list') path='profiles list' ;;
        'profiles:show') path='profiles show' ;;
        'profiles:validate') path='profiles validate' ;;
        'profiles:new') path='profiles new' ;;
        'profiles:path') path='profiles path' ;;
        'profiles:edit') path='profiles edit' ;;
        'profiles:delete') path='profiles delete' ;;
        'profiles:import') path='profiles import' ;;
        'keys:set') path='keys set' ;;
        'keys:list') path='keys list' ;;
        'keys:test') path='keys test' ;;
        'keys:delete') path='keys delete' ;;
        'keys:import') path='keys import' ;;
        'tasks:list') path='tasks list' ;;
        'tasks:show') path='tasks show' ;;
        'tasks:try') path='tasks try' ;;
        'rollouts:show') path='rollouts show' ;;
        'rollouts:export') path='rollouts export' ;;
        'rollouts:stats') path='rollouts stats' ;;
        'swarm:new') path='swarm new' ;;
        'swarm:join') path='swarm join' ;;
        'swarm:list') path='swarm list' ;;
        'swarm:show') path='swarm show' ;;
        'swarm:invite') path='swarm invite' ;;
        'swarm:peers') path='swarm peers' ;;
        'swarm:leaderboard') path='swarm leaderboard' ;;
        'swarm:leave') path='swarm leave' ;;
        'identity:show') path='identity show' ;;
        'identity:new') path='identity new' ;;
        'identity:backup') path='identity backup' ;;
        'identity:restore') path='identity restore' ;;
        'service:install') path='service install' ;;
        'service:uninstall') path='service uninstall' ;;
        'service:status') path='service status' ;;
        'completion:install') path='completion install' ;;
        'completion:uninstall') path='completion uninstall' ;;
        'completion:show') path='completion show' ;;
        *) return 1 ;;
    esac
}

# Set kind to the kind of value that the option $1 takes; leave it empty for a flag.
__swarmctl_takes() {
    case "$path:$1" in
        'run:-p' | 'run:--profile') kind=profile ;;
        'run:--node') kind=node ;;
        'run:--task') kind=words list='ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles' ;;
        'run:--model') kind=directory ;;
        'run:--device') kind=words list='auto cpu cuda mps xpu' ;;
        'run:--gpus') kind=none ;;
        'run:--rounds') kind=none ;;
        'run:--seed') kind=none ;;
        'run:--offload') kind=words list='off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm' ;;
        'run:--serve') kind=file ;;
        'run:--max-usd') kind=words list='unlimited' ;;
        'run:--join') kind=none ;;
        'run:--set') kind=setting ;;
        'run:--restart') kind=words list='auto on-failure never' ;;
        'attach:--node') kind=node ;;
        'doctor:-p' | 'doctor:--profile') kind=profile ;;
        'doctor:--node') kind=node ;;
        'doctor:--set') kind=setting ;;
        'restore:--as') kind=none ;;
        'quarantine:--lift') kind=none ;;
        'status:--node') kind=node ;;
        'fork:--at') kind=none ;;
        'logs:--node') kind=node ;;
        'logs:-n' | 'logs:--lines' | 'logs:--tail') kind=none ;;
        'logs:--since') kind=none ;;
        'logs:--level') kind=words list='info warning error' ;;
        'report:-o' | 'report:--output') kind=file ;;
        'report:--port') kind=none ;;
        'report:--samples') kind=none ;;
        'models:-p' | 'models:--profile') kind=profile ;;
        'models:--set') kind=setting ;;
        'sample:--checkpoint') kind=none ;;
        'sample:-n' | 'sample:--questions') kind=none ;;
        'sample:--system') kind=none ;;
        'sample:--temperature') kind=none ;;
        'sample:--seed') kind=none ;;
        'sample:--max-tokens') kind=none ;;
        'sample:--device') kind=words list='auto cpu cuda mps xpu' ;;
        'chat:--checkpoint') kind=none ;;
        'chat:--system') kind=none ;;
        'chat:--temperature') kind=none ;;
        'chat:--seed') kind=none ;;
        'chat:--max-tokens') kind=none ;;
        'chat:--device') kind=words list='auto cpu cuda mps xpu' ;;
        'eval:--against') kind=node ;;
        'eval:--task') kind=words list='ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles' ;;
        'eval:-n' | 'eval:--questions') kind=none ;;
        'eval:-k') kind=none ;;
        'eval:--samples') kind=none ;;
        'eval:--checkpoint') kind=none ;;
        'eval:--temperature') kind=none ;;
        'eval:--max-tokens') kind=none ;;
        'eval:--device') kind=words list='auto cpu cuda mps xpu' ;;
        'eval:-p' | 'eval:--profile') kind=profile ;;
        'eval:--max-usd') kind=words list='unlimited' ;;
        'eval:--examples') kind=none ;;
        'export:--checkpoint') kind=none ;;
        'export:--gguf-type') kind=words list='f16 bf16 q8_0' ;;
        'replay:--step') kind=none ;;
        'replay:--device') kind=words list='auto cpu cuda mps xpu' ;;
        'launch:--print') kind=words list='sky dstack slurm compose' ;;
        'launch:--nodes') kind=none ;;
        'launch:--gpu') kind=none ;;
        'launch:--name') kind=none ;;
        'launch:--join') kind=none ;;
        'launch:-p' | 'launch:--profile') kind=profile ;;
        'launch:--task') kind=words list='ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles' ;;
        'launch:--model') kind=directory ;;
        'launch:--rounds') kind=none ;;
        'launch:--offload') kind=words list='off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm' ;;
        'launch:--serve') kind=file ;;
        'launch:--max-usd') kind=words list='unlimited' ;;
        'launch:--set') kind=setting ;;
        'profiles show:--set') kind=setting ;;
        'profiles new:--from') kind=words list='cpu default demo gpu mac smol' ;;
        'profiles new:--model') kind=directory ;;
        'profiles new:--task') kind=words list='ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles' ;;
        'profiles new:--device') kind=words list='auto cpu cuda mps xpu' ;;
        'profiles new:--rounds') kind=none ;;
        'profiles new:--offload') kind=words list='off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm' ;;
        'profiles new:--max-usd') kind=words list='unlimited' ;;
        'profiles new:--set') kind=setting ;;
        'profiles import:--name') kind=none ;;
        'keys set:--host') kind=none ;;
        'tasks show:-n' | 'tasks show:--questions') kind=none ;;
        'tasks show:--param') kind=none ;;
        'tasks show:--seed') kind=none ;;
        'tasks try:--answer') kind=none ;;
        'tasks try:--param') kind=none ;;
        'tasks try:--seed') kind=none ;;
        'rollouts show:--node') kind=node ;;
        'rollouts show:--round') kind=none ;;
        'rollouts show:--question') kind=none ;;
        'rollouts show:--source') kind=words list='policy policy_text teacher hinted peer relay local openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm' ;;
        'rollouts show:--last') kind=none ;;
        'rollouts export:--node') kind=node ;;
        'rollouts export:--round') kind=none ;;
        'rollouts export:--question') kind=none ;;
        'rollouts export:--source') kind=words list='policy policy_text teacher hinted peer relay local openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm' ;;
        'rollouts export:--last') kind=none ;;
        'rollouts export:--format') kind=words list='jsonl csv parquet' ;;
        'rollouts export:-o' | 'rollouts export:--output') kind=file ;;
        'rollouts stats:--node') kind=node ;;
        'rollouts stats:--by') kind=words list='provider model stage' ;;
        'swarm new:-p' | 'swarm new:--profile') kind=profile ;;
        'swarm new:--task') kind=words list='ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles' ;;
        'swarm new:--game') kind=words list='sampling study-group' ;;
        'swarm new:--stage-time') kind=none ;;
        'swarm new:--set') kind=setting ;;
        'swarm join:--node') kind=node ;;
        'swarm join:-p' | 'swarm join:--profile') kind=profile ;;
        'swarm join:--task') kind=words list='ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles' ;;
        'swarm join:--set') kind=setting ;;
        'swarm show:--node') kind=node ;;
        'swarm invite:--node') kind=node ;;
        'swarm peers:--node') kind=node ;;
        'swarm leaderboard:--node') kind=node ;;
        'swarm leave:--node') kind=node ;;
        'identity show:--node') kind=node ;;
        'identity new:--node') kind=node ;;
        'identity backup:--node') kind=node ;;
        'identity restore:--node') kind=node ;;
        'service install:--key') kind=none ;;
        'service install:--print') kind=words list='systemd launchd compose' ;;
    esac
}

# Set list to the options available here.
__swarmctl_options() {
    case $path in
        '') list='--version --help' ;;
        'init') list='--no-input --help' ;;
        'run') list='--profile --node --task --model --device --gpus --rounds --seed --offload --serve --max-usd --join --set --fresh --dry-run --all --detach --restart --plain --json --quiet --verbose --yes --no-input --help' ;;
        'attach') list='--node --plain --help' ;;
        'doctor') list='--profile --node --set --deep --offline --fix --report --json --help' ;;
        'backup') list='--yes --json --help' ;;
        'restore') list='--as --json --help' ;;
        'upgrade') list='--dry-run --json --help' ;;
        'quarantine') list='--lift --json --help' ;;
        'status') list='--node --watch --json --help' ;;
        'stop') list='--all --json --help' ;;
        'restart') list='--all --json --help' ;;
        'rename') list='--json --help' ;;
        'fork') list='--at --json --help' ;;
        'rm') list='--yes --no-input --json --help' ;;
        'logs') list='--node --lines --tail --follow --since --level --raw --json --help' ;;
        'report') list='--output --open --serve --port --samples --yes --json --help' ;;
        'models') list='--profile --set --json --no-input --help' ;;
        'sample') list='--checkpoint --last --base --questions --system --temperature --seed --max-tokens --device --json --help' ;;
        'chat') list='--checkpoint --base --system --temperature --seed --max-tokens --device --json --help' ;;
        'eval') list='--against --task --questions -k --samples --checkpoint --base --temperature --max-tokens --device --profile --max-usd --examples --json --yes --no-input --help' ;;
        'export') list='--checkpoint --merge --gguf --gguf-type --ollama --json --yes --no-input --help' ;;
        'replay') list='--step --device --json --help' ;;
        'launch') list='--print --nodes --gpu --name --join --profile --task --model --rounds --offload --serve --max-usd --set --json --help' ;;
        'profiles') list='--help' ;;
        'profiles list') list='--json --help' ;;
        'profiles show') list='--origin --set --json --help' ;;
        'profiles validate') list='--json --help' ;;
        'profiles new') list='--from --model --task --device --rounds --offload --max-usd --set --yes --no-input --json --help' ;;
        'profiles path') list='--json --help' ;;
        'profiles edit') list='--help' ;;
        'profiles delete') list='--yes --no-input --json --help' ;;
        'profiles import') list='--name --no-test --insecure-storage --yes --no-input --json --help' ;;
        'keys') list='--help' ;;
        'keys set') list='--host --no-test --insecure-storage --json --yes --no-input --help' ;;
        'keys list') list='--json --help' ;;
        'keys test') list='--json --no-input --help' ;;
        'keys delete') list='--all --json --yes --no-input --help' ;;
        'keys import') list='--no-test --insecure-storage --json --yes --no-input --help' ;;
        'tasks') list='--help' ;;
        'tasks list') list='--json --help' ;;
        'tasks show') list='--questions --param --seed --full --json --yes --no-input --help' ;;
        'tasks try') list='--answer --param --seed --json --yes --no-input --help' ;;
        'rollouts') list='--help' ;;
        'rollouts show') list='--node --round --question --source --last --full --json --help' ;;
        'rollouts export') list='--node --round --question --source --last --correct --format --output --yes --help' ;;
        'rollouts stats') list='--node --by --json --help' ;;
        'swarm') list='--help' ;;
        'swarm new') list='--profile --task --game --stage-time --open --set --json --help' ;;
        'swarm join') list='--node --profile --task --set --dry-run --detach --plain --json --yes --no-input --help' ;;
        'swarm list') list='--json --help' ;;
        'swarm show') list='--node --json --help' ;;
        'swarm invite') list='--node --json --help' ;;
        'swarm peers') list='--node --json --help' ;;
        'swarm leaderboard') list='--node --json --help' ;;
        'swarm leave') list='--node --yes --no-input --json --help' ;;
        'identity') list='--help' ;;
        'identity show') list='--node --json --help' ;;
        'identity new') list='--node --yes --no-input --json --help' ;;
        'identity backup') list='--node --passphrase --yes --no-input --json --help' ;;
        'identity restore') list='--node --yes --no-input --json --help' ;;
        'service') list='--help' ;;
        'service install') list='--key --print --json --help' ;;
        'service uninstall') list='--json --help' ;;
        'service status') list='--json --help' ;;
        'completion') list='--help' ;;
        'completion install') list='--yes --json --help' ;;
        'completion uninstall') list='--yes --json --help' ;;
        'completion show') list='--help' ;;
    esac
}

# Set kind to the kind of argument expected here.
__swarmctl_argument() {
    case "$path:$position" in
        ':0') kind=words list='init run attach doctor backup restore upgrade quarantine status stop restart rename fork rm logs report models sample chat eval export replay launch profiles keys tasks rollouts swarm identity service completion' ;;
        'profiles:0') kind=words list='list show validate new path edit delete import' ;;
        'keys:0') kind=words list='set list test delete import' ;;
        'tasks:0') kind=words list='list show try' ;;
        'rollouts:0') kind=words list='show export stats' ;;
        'swarm:0') kind=words list='new join list show invite peers leaderboard leave' ;;
        'identity:0') kind=words list='show new backup restore' ;;
        'service:0') kind=words list='install uninstall status' ;;
        'completion:0') kind=words list='install uninstall show' ;;
        'attach:0') kind=node ;;
        'doctor:'*) kind=words list='machine python accelerator fit keys api swarm hub' ;;
        'backup:0') kind=node ;;
        'backup:1') kind=file ;;
        'restore:0') kind=file ;;
        'upgrade:0') kind=node ;;
        'quarantine:0') kind=node ;;
        'status:'*) kind=node ;;
        'stop:'*) kind=node ;;
        'restart:'*) kind=node ;;
        'rename:0') kind=node ;;
        'fork:0') kind=node ;;
        'rm:'*) kind=node ;;
        'logs:0') kind=node ;;
        'report:'*) kind=node ;;
        'models:0') kind=words list='openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm' ;;
        'sample:0') kind=node ;;
        'chat:0') kind=node ;;
        'eval:0') kind=node ;;
        'export:0') kind=node ;;
        'export:1') kind=directory ;;
        'replay:0') kind=node ;;
        'launch:0') kind=node ;;
        'profiles show:0') kind=profile ;;
        'profiles validate:0') kind=profile ;;
        'profiles path:0') kind=profile ;;
        'profiles edit:0') kind=profile ;;
        'profiles delete:0') kind=profile ;;
        'profiles import:0') kind=file ;;
        'keys set:0') kind=words list='openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb' ;;
        'keys test:0') kind=words list='openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb' ;;
        'keys delete:0') kind=words list='openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb' ;;
        'keys import:0') kind=file ;;
        'tasks show:0') kind=words list='ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles' ;;
        'tasks try:0') kind=words list='ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles' ;;
        'rollouts show:0') kind=node ;;
        'rollouts export:0') kind=node ;;
        'rollouts stats:0') kind=node ;;
        'swarm show:0') kind=node ;;
        'swarm invite:0') kind=node ;;
        'swarm peers:0') kind=node ;;
        'swarm leaderboard:0') kind=node ;;
        'swarm leave:0') kind=node ;;
        'identity backup:0') kind=file ;;
        'identity restore:0') kind=file ;;
        'service install:0') kind=node ;;
        'service uninstall:0') kind=node ;;
        'service status:0') kind=node ;;
        'completion install:0') kind=words list='bash zsh fish' ;;
        'completion uninstall:0') kind=words list='bash zsh fish' ;;
        'completion show:0') kind=words list='bash zsh fish' ;;
    esac
}

# Set list to the values of the setting $1 if there are only a few.
__swarmctl_values() {
    list=
    case $1 in
        'eval.canary') list='true false' ;;
        'game.curriculum') list='true false' ;;
        'game.kind') list='sampling study-group' ;;
        'game.partial_credit') list='true false' ;;
        'game.role') list='none pirate knight mobster announcer founder random' ;;
        'generation.batch') list='auto' ;;
        'hub.private') list='true false' ;;
        'judge.provider') list='off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm' ;;
        'model.device') list='auto cpu cuda mps xpu' ;;
        'model.dtype') list='auto float32 bfloat16 float16' ;;
        'model.fused_kernels') list='auto true false' ;;
        'model.gradient_checkpointing') list='true false' ;;
        'model.load_in_4bit') list='true false' ;;
        'model.lora') list='true false' ;;
        'model.name') list='tiny smollm2' ;;
        'model.thinking') list='true false' ;;
        'node.fresh') list='true false' ;;
        'offload.batch') list='true false' ;;
        'offload.key') list='auto key_file environment credentials keyring file' ;;
        'offload.kind') list='auto policy policy_text teacher relay' ;;
        'offload.limits.usd') list='unlimited' ;;
        'offload.on_limit') list='stop local' ;;
        'offload.provider') list='off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm' ;;
        'offload.reasoning_effort') list='none minimal low medium high xhigh max' ;;
        'offload.service_tier') list='default flex' ;;
        'offload.serving.engine') list='vllm sglang auto' ;;
        'offload.serving.turns') list='auto on off' ;;
        'offload.teach') list='answers hints distillation' ;;
        'offload.when') list='always failed' ;;
        'prompt.examples') list='auto' ;;
        'prompt.style') list='auto tags answer-tag boxed plain' ;;
        'prompt.system') list='true false' ;;
        'supervision.keep_awake') list='true false' ;;
        'supervision.restart') list='auto on-failure never' ;;
        'swarm.loopback') list='true false' ;;
        'swarm.relay') list='true false' ;;
        'tasks') list='ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles' ;;
        'train.micro_batch') list='auto' ;;
        'train.optimizer') list='adamw adamw-8bit' ;;
        'train.peer_loss') list='positive sapo f_tis' ;;
        'train.shard') list='true false' ;;
        'train.teacher_loss') list='gated luffy' ;;
    esac
}

# Set REPLY to $1 without quotes and backslashes, and quote to the quote it begins with.
__swarmctl_unquote() {
    REPLY=$1
    quote=
    case $1 in
        \"*) quote=\" REPLY=${1#\"} REPLY=${REPLY%\"} ;;
        \'*) quote=\' REPLY=${1#\'} REPLY=${REPLY%\'} ;;
    esac
    if [[ $quote != \' && $REPLY == *\\* ]]; then
        # Without -r, read only removes the backslashes.
        IFS= read REPLY <<<"$REPLY" || :
    fi
}

# Split the line at spaces into words (those before the cursor) and typed. $1 is the text that readline will replace.
__swarmctl_words() {
    local i raw line=${COMP_LINE:0:COMP_POINT} joins= last=0
    words=()
    for ((i = 1; i <= COMP_CWORD; i++)); do
        raw=${COMP_WORDS[i]}
        if ((i == COMP_CWORD)); then
            while [[ -n $raw && $line != *"$raw" ]]; do raw=${raw%?}; done
        fi
        __swarmctl_unquote "$raw"
        if [[ -n $raw && $last -gt 0 && ( -n $joins || $raw != *[!=:@]* ) ]]; then
            words[last - 1]+=$REPLY
        else
            words[last]=$REPLY
            last=$((last + 1))
        fi
        joins=
        [[ -z $raw || $raw == *[!=:@]* ]] || joins=1
    done
    typed=${words[last - 1]}
    unset "words[last - 1]"
    i=$quote
    __swarmctl_unquote "$i$1"
    cut=$((${#typed} - ${#REPLY}))
}

# Offer the arguments that begin with the typed text, quoted to match the word at the cursor.
__swarmctl_offer() {
    local word
    for word; do
        [[ $word == "$typed"* ]] || continue
        word=$before$word
        word=${word:cut}
        case $quote in
            \")
                word=${word//\\/\\\\} word=${word//\"/\\\"}
                word=${word//\$/\\\$} word=${word//\`/\\\`}
                ;;
            \') word=${word//\'/\'\\\'\'} ;;
            *) [[ $word != *[!A-Za-z0-9_./:=@%+,-]* ]] || printf -v word %q "$word" ;;
        esac
        COMPREPLY[${#COMPREPLY[@]}]=$word
    done
}

# Offer the names of the files $1/*$2, without $2. Skip names with control characters.
__swarmctl_names() {
    local file name fail=
    if shopt -q failglob; then
        fail=1
        shopt -u failglob
    fi
    for file in "$1"/*"$2"; do
        [[ -e $file ]] || continue
        file=${file%"$2"}
        name=${file##*/}
        [[ $name == .* || $name == *[[:cntrl:]]* ]] || __swarmctl_offer "$name"
    done
    [[ -z $fail ]] || shopt -s failglob
}

# Let readline complete file names ($1 empty) or directory names ($1 = dirnames).
__swarmctl_files() {
    local file
    if ((BASH_VERSINFO[0] >= 4)); then
        compopt -o "${1:-default}"
    else
        for file in "$typed"*; do
            [[ ! -e $file ]] || __swarmctl_offer "$file"
        done
    fi
}

__swarmctl_setting() {
    local key
    if [[ $typed == *=* ]]; then
        key=${typed%%=*}
        before+=$key=
        typed=${typed#*=}
        __swarmctl_values "$key"
        __swarmctl_offer $list
    else
        ((BASH_VERSINFO[0] < 4)) || compopt -o nospace
        __swarmctl_offer checkpoint.every= \
            checkpoint.keep= \
            eval.canary= \
            eval.every= \
            eval.questions= \
            game.curriculum= \
            game.format_reward= \
            game.group_size= \
            game.groups= \
            game.kind= \
            game.partial_credit= \
            game.refill= \
            game.rest= \
            game.role= \
            game.rounds= \
            generation.batch= \
            generation.max_completion_tokens= \
            generation.max_prompt_tokens= \
            generation.temperature= \
            hub.every= \
            hub.private= \
            hub.repo= \
            journal.keep_rounds= \
            judge.instructions= \
            judge.max_tokens= \
            judge.model= \
            judge.provider= \
            judge.weight= \
            model.device= \
            model.dtype= \
            model.fused_kernels= \
            model.gradient_checkpointing= \
            model.load_in_4bit= \
            model.lora= \
            model.lora.alpha= \
            model.lora.dropout= \
            model.lora.rank= \
            model.lora.targets= \
            model.name= \
            model.revision= \
            model.thinking= \
            model.threads= \
            node.fresh= \
            node.name= \
            node.seed= \
            offload.ahead= \
            offload.batch= \
            offload.fallback= \
            offload.key= \
            offload.kind= \
            offload.limits.concurrency= \
            offload.limits.requests_per_minute= \
            offload.limits.timeout= \
            offload.limits.tokens_per_minute= \
            offload.limits.usd= \
            offload.limits.usd_per_day= \
            offload.max_tokens= \
            offload.model= \
            offload.on_limit= \
            offload.prices= \
            offload.provider= \
            offload.reasoning_effort= \
            offload.reasoning_tokens= \
            offload.rounds= \
            offload.service_tier= \
            offload.serving.arguments= \
            offload.serving.command= \
            offload.serving.engine= \
            offload.serving.folder= \
            offload.serving.gpu= \
            offload.serving.server_folder= \
            offload.serving.turns= \
            offload.serving.urls= \
            offload.share= \
            offload.stages= \
            offload.teach= \
            offload.when= \
            prompt.examples= \
            prompt.style= \
            prompt.system= \
            providers= \
            report.events_mb= \
            report.metrics_address= \
            report.metrics_port= \
            report.to= \
            supervision.hang_after= \
            supervision.keep_awake= \
            supervision.max_restarts= \
            supervision.restart= \
            swarm.announce= \
            swarm.external= \
            swarm.join= \
            swarm.loopback= \
            swarm.port= \
            swarm.relay= \
            tasks= \
            train.beta= \
            train.learning_rate= \
            train.max_grad_norm= \
            train.max_lag= \
            train.micro_batch= \
            train.off_policy_weight= \
            train.optimizer= \
            train.peer_loss= \
            train.processes= \
            train.shard= \
            train.teacher_learning_rate= \
            train.teacher_loss= \
            train.warmup_steps= \
            train.weight_decay= \
            warm_start.batch= \
            warm_start.examples= \
            warm_start.steps= \
            warmup.batch= \
            warmup.learning_rate= \
            warmup.steps=
    fi
}

_swarmctl() {
    local IFS=$' \t\n' REPLY path= position=0 typed= quote= before= cut=0 kind= list= word arguments=
    local -a words
    COMPREPLY=()
    __swarmctl_words "$2"
    for word in ${words[@]+"${words[@]}"}; do
        if [[ -n $kind ]]; then
            kind=
        elif [[ $word == -- && -z $arguments ]]; then
            arguments=1
        elif [[ $word == -* && -z $arguments ]]; then
            [[ $word == *=* ]] || __swarmctl_takes "$word"
        else
            __swarmctl_enter "$word" || position=$((position + 1))
        fi
    done
    if [[ -z $kind && -z $arguments && $typed == --*=* ]]; then
        __swarmctl_takes "${typed%%=*}"
        before=${typed%%=*}=
        typed=${typed#*=}
    elif [[ -z $kind && -z $arguments && $typed == -* ]]; then
        __swarmctl_options
        kind=words
    elif [[ -z $kind ]]; then
        __swarmctl_argument
    fi
    local home=${SWARMCTL_HOME-}
    [[ $home != "~" && $home != "~/"* ]] || home=$HOME${home#"~"}
    case $kind in
        words) __swarmctl_offer $list ;;
        setting) __swarmctl_setting ;;
        node) __swarmctl_names "${home:-$HOME/.local/share/swarmctl}/nodes" / ;;
        profile)
            __swarmctl_offer cpu default demo gpu mac smol
            __swarmctl_names "${home:-$HOME/.config/swarmctl}/profiles" .toml
            __swarmctl_files
            ;;
        file) __swarmctl_files ;;
        directory) __swarmctl_files dirnames ;;
    esac
}

complete -F _swarmctl swarmctl
