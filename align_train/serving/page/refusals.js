// Shows why the server refused a question, above the answers: Gradio's own mark says only "Error".

const ask = window.fetch;

function sayRefusal(text) {
  const line = document.querySelector("#refusal");
  if (!line) return;
  line.textContent = text;
  line.hidden = !text;
}

async function reasonOf(answer) {
  try {
    return (await answer.clone().json()).error || `The server answered ${answer.status}.`;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

window.fetch = async (...given) => {
  const url = String(given[0]?.url ?? given[0]);
  if (!url.endsWith("/run/predict")) return ask(...given);
  try {
    const answer = await ask(...given);
    sayRefusal(answer.ok ? "" : await reasonOf(answer));
    return answer;
  } catch (error) {
    sayRefusal("The server does not answer.");
    throw error;
  }
};
